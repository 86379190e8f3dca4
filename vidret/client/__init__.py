"""The client of ``vidret serve``, with the methods of ``Engine``. It loads neither torch nor a model."""

from vidret.client.remote import RemoteEngine
from vidret.client.server import RemoteError

__all__ = ["RemoteEngine", "RemoteError"]
