"""Code that exists only in the image: its first processes, the ways of running a job, and the build check."""
