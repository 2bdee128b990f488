"""Dialects: the hyperparameter names of other tools, and the defaults that these tools have."""
