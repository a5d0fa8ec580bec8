"""A version's files between plaintext and store."""
