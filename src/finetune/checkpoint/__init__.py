"""Named things with state, written whole or not at all, and read without trust."""
