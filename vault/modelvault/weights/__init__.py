"""Header bytes to tensor descriptions: no keys, no I/O."""
