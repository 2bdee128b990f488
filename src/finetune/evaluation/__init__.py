"""Evaluation of a model on one part of the data: predictions and metrics."""
