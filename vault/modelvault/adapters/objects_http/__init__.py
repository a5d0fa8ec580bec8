"""Objects by links that a broker gives: what a client without an account at the store uses."""

from modelvault.adapters.objects_http.places import HttpPlaces

__all__ = ["HttpPlaces"]
