"""Locates and reads weight files and matches them to a model."""
