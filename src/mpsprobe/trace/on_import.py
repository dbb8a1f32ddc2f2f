"""Run code before and after the import of a module, whichever code imports it and whenever."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any


class OnImport(importlib.abc.MetaPathFinder):
    """A finder that runs a module inside a context when it is imported. It acts while it is in `sys.meta_path`.

    Args:
        name: The full name of the module.
        around: A function that makes the context.
    """

    def __init__(self, name: str, around: Callable[[], AbstractContextManager[Any]]) -> None:
        self._name, self._around = name, around

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._around)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(
        self, loader: importlib.abc.Loader, around: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        self._loader, self._around = loader, around

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        with self._around():
            self._loader.exec_module(module)

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the module's own loader, such as the source for a traceback."""
        return getattr(self._loader, name)
