"""Fine-tuning strategies: trainable layer groups and learning rates per phase."""
