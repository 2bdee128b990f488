"""Monitoring of a job: progress, metrics, timing, rules, debugger hooks and the report."""
