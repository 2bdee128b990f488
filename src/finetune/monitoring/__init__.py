"""What the job tells while it runs: the plan before, a line per epoch, progress within."""
