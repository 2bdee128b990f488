"""Observers of training: rules and trackers."""
