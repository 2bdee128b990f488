"""Other tools with their defaults, each a script that runs in an environment of its own: `python -m ... CELL.json`."""
