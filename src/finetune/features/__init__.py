"""Outputs of frozen layers (features): computed once per record, cached, and served in batches."""
