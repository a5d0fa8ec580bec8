"""Who is asking: tokens, their checks and their making."""
