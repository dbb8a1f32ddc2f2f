"""Keep transformers from importing SciPy (a tenth of all modules) and scikit-learn for a prediction.

`transformers.generation` imports `roc_curve` of scikit-learn for assisted generation, and the losses of detection
models, which every model imports, use `linear_sum_assignment` of SciPy. Each is imported at its first call instead.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class _Later:
    """One function of a package that transformers imports where the package is installed.

    Attributes:
        package: The name of the package.
        home: The module of the package that has the function.
        function: The name of the function.
        check: The function of transformers.utils that tells whether the package is installed.
        first: The module of transformers whose import brings all users of the function.
        users: The prefix of the names of these users.
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


def import_lightly() -> None:
    """Import the users of these functions without the packages that define them."""
    for one in _LATER:
        if one.first in sys.modules or importlib.util.find_spec(one.package) is None:
            continue
        import transformers.utils
        from transformers.utils import import_utils

        owners: list[Any] = [
            owner for owner in (import_utils, transformers.utils) if hasattr(owner, one.check)
        ]
        if not owners or importlib.util.find_spec(one.first) is None:
            continue
        installed = getattr(owners[0], one.check)
        for owner in owners:
            setattr(owner, one.check, lambda: False)
        try:
            importlib.import_module(one.first)
        finally:
            for owner in owners:
                setattr(owner, one.check, installed)
        for name, module in list(sys.modules.items()):
            if name.startswith(one.users) and hasattr(module, one.check):
                setattr(module, one.check, installed)
                setattr(module, one.function, _called_later(one))


def _called_later(one: _Later) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> Any:
        return getattr(importlib.import_module(one.home), one.function)(*args, **kwargs)

    return function
