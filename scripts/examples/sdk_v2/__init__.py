"""With `Estimator`, of the SageMaker Python SDK 2."""
