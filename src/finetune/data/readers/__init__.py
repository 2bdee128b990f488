"""Readers: the records of a channel's folder."""
