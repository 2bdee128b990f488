"""Framing: from a stream of bytes to payloads (RecordIO, TFRecord, tar, lines, gzip)."""
