"""How the broker's calls look over HTTP: paths, bodies and problems, for both sides."""
