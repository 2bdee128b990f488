"""Example jobs, with each of the two SageMaker Python SDKs."""
