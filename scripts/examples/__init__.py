"""Jobs as users ask for them, with each of the two SageMaker Python SDKs."""
