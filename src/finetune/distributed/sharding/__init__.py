"""Models whose parameters, gradients and optimizer state are divided among the processes of a job."""
