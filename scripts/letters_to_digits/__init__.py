"""The demonstration: a network that knows printed letters learns handwritten digits from a few pictures of each."""
