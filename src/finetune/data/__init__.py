"""Data pipeline: from the bytes of a channel to records, examples and batches."""
