"""From a channel's bytes to records, examples and batches."""
