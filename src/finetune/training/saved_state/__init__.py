"""What a job needs to continue after an interruption, and when it is saved."""
