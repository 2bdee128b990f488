"""Files of weights: where they are, what they hold, and whether they match a model."""
