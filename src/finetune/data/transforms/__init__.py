"""Transforms: from the content of a record to an example, and to a batch."""
