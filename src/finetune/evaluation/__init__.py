"""One pass over a channel: predictions and metrics."""
