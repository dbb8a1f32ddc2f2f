"""Which module is running: a path such as `model.layers.0.self_attn` for every op.

`torch.nn.Module.__call__` is wrapped while a recorder is on. Forward hooks would do the same at several times
the cost (one hook anywhere sends every module down the slow path of `_call_impl`), and their stack is left in
disorder by an exception.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

from torch import nn


class CallNode:
    """A module as called from a certain place: one node of the tree of calls of one thread.

    Attributes:
        path: the module's path; `""` outside any module and in the root module itself.
        uses: for the recorder: what was recorded while this module was the innermost one.
        children: nodes of the modules called from here. A module that has no path is known by its class, so
            that modules made anew in every call do not pile up here.
    """

    __slots__ = ("children", "path", "uses")

    def __init__(self, path: str) -> None:
        self.path = path
        self.uses: dict[Any, Any] = {}
        self.children: dict[nn.Module | type[nn.Module], CallNode] = {}


class _CallStack(threading.local):
    """The modules running in a thread, outermost first. Never empty."""

    def __init__(self, register: Callable[[CallNode], None]) -> None:
        root = CallNode("")
        register(root)
        self.stack = [root]


class ModulePaths:
    """Follows module calls in all threads and names each module by its path.

    Args:
        model: the model whose `named_modules()` give the paths; several by name (`{"unet": ..., "vae": ...}`)
            get that name as a prefix. None: each model is found when it is first called from outside any
            module, and its class name is the prefix.
    """

    def __init__(self, model: nn.Module | Mapping[str, nn.Module] | None = None) -> None:
        self._threads: list[CallNode] = []  # list.append is atomic
        self.calls = _CallStack(self._threads.append)
        self._named: dict[nn.Module, list[str]] = {}
        self._adopts = model is None
        if isinstance(model, nn.Module):
            self._name_all(model, "")
        else:
            for name, part in (model or {}).items():
                self._name_all(part, name)

    def nodes(self) -> Iterator[CallNode]:
        """All nodes of all threads."""
        waiting = list(self._threads)
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(list(node.children.values()))

    def _name_all(self, root: nn.Module, prefix: str) -> None:
        for path, module in root.named_modules(prefix=prefix, remove_duplicate=False):
            paths = self._named.setdefault(module, [])
            if path not in paths:
                paths.append(path)

    def _resolve(self, parent: CallNode, module: nn.Module) -> CallNode:
        """The node of a module first called from `parent`."""
        if module not in self._named and self._adopts and len(self.calls.stack) == 1:
            self._name_all(module, type(module).__name__)
        paths = self._named.get(module)
        if paths is None:
            kind = type(module)
            if kind not in parent.children:
                parent.children[kind] = CallNode(f"{parent.path}.{kind.__name__}".lstrip("."))
            return parent.children[kind]
        path = paths[0]
        if len(paths) > 1:
            # A module shared by two parents has two paths: the caller's own is the one with more in common.
            path = max(paths, key=lambda path: _shared_parts(path, parent.path))
        node = parent.children[module] = CallNode(path)
        return node

    @contextmanager
    def following(self, outermost: Callable[[], Any] | None = None) -> Iterator[ModulePaths]:
        """Follow module calls while the context lasts.

        Args:
            outermost: makes a context manager for each outermost module call of a thread, or None for no
                need of one. A dispatch mode holds for the thread that entered it, so the recorder enters one
                here for the others (a streamer runs `generate` in a thread of its own).
        """
        calls = self.calls
        original = nn.Module.__call__
        active = True

        def call(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
            if not active:
                return original(module, *args, **kwargs)
            stack = calls.stack
            parent = stack[-1]
            node = parent.children.get(module)
            if node is None:
                node = self._resolve(parent, module)
            stack.append(node)
            try:
                if outermost is not None and len(stack) == 2:
                    context = outermost()
                    if context is not None:
                        with context:
                            return original(module, *args, **kwargs)
                return original(module, *args, **kwargs)
            finally:
                stack.pop()

        nn.Module.__call__ = call  # type: ignore[method-assign]
        try:
            yield self
        finally:
            # Somebody may have wrapped our wrapper: taking it out would take theirs out too.
            active = False
            if nn.Module.__call__ is call:
                nn.Module.__call__ = original  # type: ignore[method-assign]


def _shared_parts(path: str, other: str) -> int:
    """How many parts two paths have in common from their beginning."""
    pairs = zip(path.split("."), other.split("."), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
