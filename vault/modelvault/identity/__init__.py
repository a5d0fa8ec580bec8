"""Who is asking: tokens verified, tokens minted, and what binds a token to a key."""
