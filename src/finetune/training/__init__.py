"""The loop, and the state that an interruption must not lose."""
