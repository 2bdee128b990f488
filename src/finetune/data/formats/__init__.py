"""Records that come one after another in a stream of bytes, whether through a pipe or from files."""
