"""The command `modelvault`."""
