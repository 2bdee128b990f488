"""Training loop, training step and resumable training state."""
