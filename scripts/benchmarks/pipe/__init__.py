"""What Pipe mode costs, row by row of the table in docs/benchmarks.md."""
