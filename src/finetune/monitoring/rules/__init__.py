"""Rules that watch a job: each looks at cheap numbers, says what it saw, where, and the one thing to do next."""
