"""What learns, when, and how fast."""
