"""Bytes in, bytes out: knows no model."""
