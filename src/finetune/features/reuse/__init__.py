"""Reuse of features by later jobs of a warm pool."""
