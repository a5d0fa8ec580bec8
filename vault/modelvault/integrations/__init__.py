"""Doors for frameworks: each speaks one framework's language and opens a session of its own."""
