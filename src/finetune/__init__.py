"""Adapts pretrained image and text networks to a user's data under SageMaker's `/opt/ml` contract."""

__version__ = "0.1.0"
