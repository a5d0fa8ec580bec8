"""A request to the policy's input, and its answer back."""
