"""Following a tag: the version that it means serves, and is swapped when it moves."""

from modelvault.client.watching.follower import Swap
from modelvault.client.watching.live import Live
from modelvault.client.watching.session import Watching

__all__ = ["Live", "Swap", "Watching"]
