"""Pipe mode: FIFOs, shuffling, splitting and batches of streams."""
