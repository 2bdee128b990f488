"""The process and its device: precision, memory, threads. Independent of the job's other packages."""
