"""Runs training jobs on this machine, each in a folder of its own."""
