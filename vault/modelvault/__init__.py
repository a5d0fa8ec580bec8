"""An encrypted vault for AI models: weights come out only in the memory of an allowed job."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelvault.client.session import Session
    from modelvault.client.watching import Live
    from modelvault.crypto.pages import inherited
    from modelvault.loader.model import Model
    from modelvault.sharing.attached import attach
    from modelvault.sharing.host import Host
    from modelvault.wiring import connect
    from modelvault.wiring.measuring import metrics_text, register_metrics

__all__ = [
    "Host",
    "Live",
    "Model",
    "Session",
    "attach",
    "connect",
    "errors",
    "inherited",
    "metrics_text",
    "register_metrics",
]

_HOMES = {
    "Host": "modelvault.sharing.host",
    "Live": "modelvault.client.watching",
    "attach": "modelvault.sharing.attached",
    "connect": "modelvault.wiring",
    "Session": "modelvault.client.session",
    "Model": "modelvault.loader.model",
    "errors": "modelvault.errors",
    "inherited": "modelvault.crypto.pages",
    "metrics_text": "modelvault.wiring.measuring",
    "register_metrics": "modelvault.wiring.measuring",
}


def __getattr__(name: str) -> object:
    # Lazy, so that `import modelvault` costs next to nothing and pulls in no service's client.
    if name not in _HOMES:
        raise AttributeError(f"module 'modelvault' has no attribute {name!r}")
    from importlib import import_module

    module = import_module(_HOMES[name])
    return module if name == "errors" else getattr(module, name)
