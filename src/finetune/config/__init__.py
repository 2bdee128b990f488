"""Hyperparameters and channels of a job, all checked before any data is read."""
