"""Benchmarks reported in docs/benchmarks.md, each a subcommand of `scripts/benchmark`."""
