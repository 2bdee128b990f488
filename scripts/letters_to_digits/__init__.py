"""The demo: a model trained on printed letters learns handwritten digits from a few images of each."""
