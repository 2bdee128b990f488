"""Memory of the activations that a training step stores."""
