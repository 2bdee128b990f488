"""Examples with `Estimator` of the SageMaker Python SDK 2."""
