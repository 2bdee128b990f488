"""Framing of byte streams into payloads: RecordIO, TFRecord, tar, lines and gzip."""
