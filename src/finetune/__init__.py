"""Fine-tunes pretrained image and text models on a user's data under SageMaker's `/opt/ml` contract."""

__version__ = "0.2.0"
