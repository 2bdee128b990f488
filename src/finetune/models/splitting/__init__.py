"""Splits a model into a frozen prefix and a trainable suffix."""
