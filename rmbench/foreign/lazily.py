"""torch, imported when something of it is first used: what a loss says of itself needs none of it."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


class _Lazy(ModuleType):
    """A module that is imported when an attribute is first used."""

    def __getattr__(self, name: str) -> object:
        value = getattr(import_module(self.__name__), name)
        setattr(self, name, value)  # asked for once
        return value


torch, functional = _Lazy("torch"), _Lazy("torch.nn.functional")
