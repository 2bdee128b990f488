"""Serves exported artifacts over HTTP under SageMaker's hosting contract, and predicts with them in Python."""
