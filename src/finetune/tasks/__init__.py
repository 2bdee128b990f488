"""What depends on the kind of prediction: loss, counts, metrics, decision thresholds and the meaning of outputs."""
