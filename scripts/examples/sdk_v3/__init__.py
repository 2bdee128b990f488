"""Examples with `ModelTrainer` of the SageMaker Python SDK 3."""
