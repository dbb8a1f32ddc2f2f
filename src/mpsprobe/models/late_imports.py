"""Keep transformers from importing SciPy and scikit-learn until something calls them.

`transformers.generation` imports `roc_curve` of scikit-learn for assisted generation, and the losses of detection
models, which every model imports, use `linear_sum_assignment` of SciPy. Together they take a third of the time of the
imports that loading a model needs. Each is imported at its first call instead.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mpsprobe.trace.on_import import OnImport


@dataclass(frozen=True)
class _Later:
    """A function of another package, and how transformers is kept from importing it before it is called.

    Attributes:
        package: The name of the package.
        home: The module of the package that has the function.
        function: The name of the function.
        check: The function of transformers.utils that tells whether the package is installed.
        first: The module of transformers whose import also imports the modules that use the function.
        users: The prefix of the names of the modules of transformers that use the function.
    """

    package: str
    home: str
    function: str
    check: str
    first: str
    users: str


_LATER = (
    _Later(
        "scipy",
        "scipy.optimize",
        "linear_sum_assignment",
        "is_scipy_available",
        "transformers.loss.loss_utils",
        "transformers.loss.",
    ),
    _Later(
        "sklearn",
        "sklearn.metrics",
        "roc_curve",
        "is_sklearn_available",
        "transformers.generation.candidate_generator",
        "transformers.generation.candidate_generator",
    ),
)


def postpone() -> None:
    """Keep transformers from importing the packages of `_LATER` until one of their functions is called.

    The hooks are installed once in a process, and only for packages that are installed.
    """
    global _postponed
    for one in () if _postponed else _LATER:
        if importlib.util.find_spec(one.package) is not None:
            sys.meta_path.insert(0, OnImport(one.first, functools.partial(_without_package, one)))
    _postponed = True


_postponed = False


@contextlib.contextmanager
def _without_package(one: _Later) -> Iterator[None]:
    """Hide a package while the block imports the users of its function, then give them one that imports it late."""
    with _said_to_be_missing(one.check) as installed:
        yield
    for name, user in list(sys.modules.items()):
        if installed and name.startswith(one.users) and hasattr(user, one.check):
            setattr(user, one.check, installed)
            setattr(user, one.function, _called_later(one))


@contextlib.contextmanager
def _said_to_be_missing(check: str) -> Iterator[Callable[[], bool] | None]:
    """Make transformers report a package as not installed while the block runs.

    Yields:
        Its own check, which is restored afterwards; None where this transformers has no such check.
    """
    import transformers.utils
    from transformers.utils import import_utils

    owners: list[Any] = [owner for owner in (import_utils, transformers.utils) if hasattr(owner, check)]
    if not owners:
        yield None
        return
    installed: Callable[[], bool] = getattr(owners[0], check)
    for owner in owners:
        setattr(owner, check, lambda: False)
    try:
        yield installed
    finally:
        for owner in owners:
            setattr(owner, check, installed)


def _called_later(one: _Later) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> Any:
        return getattr(importlib.import_module(one.home), one.function)(*args, **kwargs)

    return function
