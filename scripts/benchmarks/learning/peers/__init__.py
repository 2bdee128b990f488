"""Other tools with their defaults: scripts that train and predict for one cell, in the environment of the tool."""
