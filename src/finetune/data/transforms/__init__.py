"""Transforms from record content to examples and batches."""
