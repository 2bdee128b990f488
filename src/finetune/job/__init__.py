"""The whole job from top to bottom; the only package that knows every stage."""
