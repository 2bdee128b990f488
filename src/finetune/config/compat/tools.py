"""Names of the tools whose hyperparameters are translated, for the documentation."""

MXNET = "image classification (MXNet)"
TENSORFLOW = "image and text classification (TensorFlow)"
BLAZING = "BlazingText"
JUMPSTART = "JumpStart"
HUGGING_FACE = "Hugging Face Trainer"
