"""Exports the trained model and verifies that the exported artifact reproduces its predictions."""
