"""The shipped policies as a Bundle."""

from __future__ import annotations

from modelvault.policy.bundle import Bundle
from modelvault_policies import files


def bundle() -> Bundle:
    """The shipped modules with the shipped data: what `modelvault init` publishes first."""
    return Bundle(modules=files.modules(), data=files.data())
