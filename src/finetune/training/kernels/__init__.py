"""Faster replacements of PyTorch functions; each can be switched off where it is called."""
