"""A granted version in this process's memory."""
