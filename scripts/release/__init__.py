"""Checks of an image before it is published: its software bill of materials, and known vulnerabilities."""
