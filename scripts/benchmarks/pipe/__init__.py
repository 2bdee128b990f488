"""Cost of Pipe mode, for each row of the table in docs/benchmarks.md."""
