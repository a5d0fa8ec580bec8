"""The ports, implemented. Only wiring names these modules."""
