"""Find the module that is running: a path such as `model.layers.0.self_attn` for every op.

`torch.nn.Module.__call__` is wrapped while a recorder is active. Forward hooks would cost several times as much
(one hook anywhere sends every module down the slow path of `_call_impl`), and an exception leaves their stack
inconsistent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from itertools import takewhile
from typing import Any

import msgspec
from torch import nn


class CallNode(msgspec.Struct, eq=False):
    """A module as called from a certain place: one node in the call tree of one thread.

    Attributes:
        parent: The caller; None outside any module.
        module: The called module: a module of the model, or the class of another one, because modules that are
            created in every call would accumulate here.
        children: The nodes of the modules called from here.
        uses: The op uses that were recorded while this module was the innermost one.
    """

    parent: CallNode | None
    module: nn.Module | type[nn.Module] | None
    children: dict[nn.Module | type[nn.Module], CallNode] = msgspec.field(default_factory=dict)
    uses: dict[Any, Any] = msgspec.field(default_factory=dict)


class _CallStack(threading.local):
    """The modules running in a thread, outermost first. Never empty."""

    def __init__(self, register: Callable[[CallNode], None]) -> None:
        root = CallNode(None, None)
        register(root)
        self.stack = [root]


class ModulePaths:
    """Follow module calls in all threads, and name each module by its path.

    Names are computed on request; a call only adds to a tree of modules.

    Args:
        model: The model whose `named_modules()` give the paths, or several by name (`{"unet": ..., "vae": ...}`),
            which becomes a prefix. With None, each model is found when it is first called from outside any
            module, and its class name is the prefix.
    """

    def __init__(self, model: nn.Module | Mapping[str, nn.Module] | None = None) -> None:
        self._threads: list[CallNode] = []  # list.append is atomic
        self.calls = _CallStack(self._threads.append)
        self._roots: dict[str, nn.Module] = {}
        self._known: set[nn.Module] = set()
        self._names: dict[nn.Module, list[str]] = {}
        self._paths: dict[int, str] = {}  # by id of the node, which the tree keeps alive
        self._adopts = model is None
        given = {"": model} if isinstance(model, nn.Module) else dict(model or {})
        for name, root in given.items():
            self._add(name, root)

    def nodes(self) -> Iterator[CallNode]:
        """Yield every node of the call trees of all threads, including their roots, which stand for no module."""
        waiting = list(self._threads)
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(list(node.children.values()))

    def path(self, node: CallNode) -> str:
        """Return the module's path; `""` outside any module and in the model itself."""
        path = self._paths.get(id(node))
        if path is None:
            path = self._paths[id(node)] = self._find_path(node)
        return path

    def _find_path(self, node: CallNode) -> str:
        if node.parent is None or node.module is None:
            return ""
        caller = self.path(node.parent)
        if isinstance(node.module, type):
            return f"{caller}.{node.module.__name__}".lstrip(".")
        if not self._names:
            self._name_all()
        # A module shared by two parents has two paths; the caller's is the one with the longer common prefix.
        return max(self._names[node.module], key=lambda path: _shared_parts(path, caller))

    def _add(self, name: str, root: nn.Module) -> None:
        while name in self._roots:  # a second model of the same class
            name += "_"
        self._roots[name] = root
        self._known.update(root.modules())
        self._names.clear()
        self._paths.clear()

    def _name_all(self) -> None:
        for name, root in self._roots.items():
            for path, module in root.named_modules(prefix=name, remove_duplicate=False):
                self._names.setdefault(module, []).append(path)

    def _first_call(self, parent: CallNode, module: nn.Module) -> CallNode:
        """Return the node of a module that `parent` calls for the first time, or that is identified by its class.

        A model that is first called outside any module is adopted if no model was given.
        """
        if module not in self._known and self._adopts and parent.parent is None:
            self._add(type(module).__name__, module)
        key = module if module in self._known else type(module)
        node = parent.children.get(key)
        if node is None:
            node = parent.children[key] = CallNode(parent, key)
        return node

    @contextmanager
    def following(
        self,
        outermost: Callable[[], Any] | None = None,
        *,
        around: Callable[[CallNode, int, Mapping[str, Any]], AbstractContextManager[Any]] | None = None,
        depth: int = 1,
        each: Callable[[], object] | None = None,
    ) -> Iterator[ModulePaths]:
        """Follow module calls while the context lasts.

        Args:
            outermost: A function that returns a context manager for each outermost module call of a thread, or
                None. A dispatch mode applies only to the thread that entered it, so the recorder uses this to enter
                one in other threads (a streamer runs `generate` in its own thread).
            around: A function that returns a context manager for each module call down to `depth`, from its node,
                its depth (1: outermost) and its keyword arguments.
            depth: The greatest depth for `around`.
            each: A function that is called at the beginning of every module call, at any depth.
        """
        calls = self.calls
        original = nn.Module.__call__
        active = True
        watched = depth + 1 if around is not None else 0

        def call(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
            if not active:
                return original(module, *args, **kwargs)
            stack = calls.stack
            parent = stack[-1]
            node = parent.children.get(module)
            if node is None:
                node = self._first_call(parent, module)
            stack.append(node)
            if each is not None:
                each()
            try:
                if outermost is not None and len(stack) == 2:
                    context = outermost()
                    if context is not None:
                        with context:
                            return original(module, *args, **kwargs)
                if len(stack) <= watched:
                    assert around is not None
                    with around(node, len(stack) - 1, kwargs):
                        return original(module, *args, **kwargs)
                return original(module, *args, **kwargs)
            finally:
                stack.pop()

        nn.Module.__call__ = call  # type: ignore[method-assign]
        try:
            yield self
        finally:
            # Other code may have wrapped this wrapper, and removing it would remove theirs too.
            active = False
            if nn.Module.__call__ is call:
                nn.Module.__call__ = original  # type: ignore[method-assign]


def _shared_parts(path: str, other: str) -> int:
    """Return the number of parts in the common prefix of two paths."""
    pairs = zip(path.split("."), other.split("."), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
