"""Choices that a job makes from its request, its data and its devices."""
