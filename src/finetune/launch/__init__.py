"""Starts the processes of a job, one for each device, and reports the first failure among them."""
