"""Record formats of byte streams, read from pipes or from files."""
