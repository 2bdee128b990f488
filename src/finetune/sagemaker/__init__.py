"""SageMaker's side of the bargain: folders, configuration files, failure file, exit code, SIGTERM."""
