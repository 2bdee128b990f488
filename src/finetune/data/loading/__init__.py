"""Datasets, splits, order of records, batches, prefetching and the image cache."""
