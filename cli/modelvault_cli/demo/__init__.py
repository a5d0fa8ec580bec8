"""`modelvault demo`: the whole of it on a real model, checked step by step."""
