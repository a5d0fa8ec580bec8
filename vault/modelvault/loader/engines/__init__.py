"""Frameworks that share the loader's memory."""
