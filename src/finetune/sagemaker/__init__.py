"""The SageMaker training contract: folders, configuration files, failure file, exit code, SIGTERM."""
