"""What exists only in the image: its first process, the ways in which it runs a job, and the test of its build."""
