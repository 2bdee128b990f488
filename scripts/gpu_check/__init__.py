"""Checks on a GPU: CUDA tests, exactness, speed, virtual devices, and deterministic algorithms."""
