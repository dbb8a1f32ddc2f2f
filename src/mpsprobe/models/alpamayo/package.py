"""The package `alpamayo_r1`: the target's own code, which is not ours to ship."""

from __future__ import annotations

import importlib
from typing import Any

from mpsprobe.errors import TargetError

NAME = "alpamayo_r1"
#: What its inference imports beside torch, transformers and NumPy, by import name. The rest of its stated
#: requirements (flash-attn, vllm, deepspeed, cosmos-rl) is for training.
NEEDED = {
    "scipy": "scipy",
    "einops": "einops",
    "hydra": "hydra-core",
    "colorlog": "colorlog",
    "PIL": "pillow",
}
_FETCH = "git clone https://github.com/NVlabs/alpamayo, and put its src folder on PYTHONPATH"


def model_class() -> Any:
    """`AlpamayoR1`, a `PreTrainedModel`.

    Raises:
        TargetError: the package, or one that it imports, is not installed.
    """
    return imported("models.alpamayo_r1").AlpamayoR1


def imported(module: str) -> Any:
    """One module of the package.

    Raises:
        TargetError: as `model_class` does.
    """
    try:
        return importlib.import_module(f"{NAME}.{module}")
    except ImportError as problem:
        missing = (problem.name or "").partition(".")[0]
        if missing == NAME:
            raise TargetError(f"The package {NAME} is not installed.", f"{_FETCH}.") from problem
        wanted = NEEDED.get(missing)
        raise TargetError(
            f"{NAME} cannot be imported: {problem}.",
            f"pip install {wanted}" if wanted else f"Install what provides {missing or 'it'}.",
        ) from problem
