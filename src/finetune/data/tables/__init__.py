"""Readers for texts in tables: CSV, TSV, JSON Lines and Parquet."""
