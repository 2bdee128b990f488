"""Measurements that docs/benchmarks.md reports, each a subcommand of `scripts/benchmark`."""
