"""Accuracy of our jobs and of other tools on held-out records, from the same weights and training records."""
