"""The process and its device: precision, memory, threads. Nothing here knows about jobs."""
