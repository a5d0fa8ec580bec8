"""A broker on another machine, as `Broker` and `Steward`."""

from modelvault.adapters.broker_http.connection import Connection
from modelvault.adapters.broker_http.pool import Address
from modelvault.adapters.broker_http.remote import RemoteBroker

__all__ = ["Address", "Connection", "RemoteBroker"]
