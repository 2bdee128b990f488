"""Code that exists only in the image: its first process, the ways of running a job, and the build check."""
