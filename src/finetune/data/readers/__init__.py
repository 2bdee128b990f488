"""Readers for the records in a channel's folder."""
