"""Ciphertext of a store that is far away, kept in a folder (docs/engines/cache.md)."""

from modelvault.adapters.objects_cached.cache import SegmentCache

__all__ = ["SegmentCache"]
