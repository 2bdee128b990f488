"""Solves a linear head on fixed features as a convex problem, with a cross-validated regularization strength."""
