"""Decide the dtypes in which a config's model is built, as `from_pretrained` decides them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import torch

from mpsprobe.errors import TargetError, UsageError


def dtype_of(config: Any, dtype: str = "auto") -> torch.dtype:
    """Return the dtype of the weights: the requested one, else the config's, else float32 as in `from_pretrained`.

    For a config that states none, its `text_config` and `vision_config` are read. Dtypes that are not floating are
    ignored; of dtypes by part, that of the rest counts (the key `""`).

    Args:
        config: A config object; a dict of arguments states no dtype.
        dtype: The name of the requested dtype; `"auto"` for none.

    Raises:
        UsageError: The requested name is none of torch's dtypes.
    """
    if dtype != "auto":
        found = getattr(torch, dtype, None)
        if not isinstance(found, torch.dtype):
            raise UsageError(f"dtype {dtype!r}: torch has none of that name.", "For example bfloat16.")
        return found
    for part in (config, getattr(config, "text_config", None), getattr(config, "vision_config", None)):
        stated = getattr(part, "dtype", None) or getattr(part, "torch_dtype", None)
        if isinstance(stated, dict):  # by part: "" is that of all others
            return _named_dtype(stated.get("")) or torch.float32
        named = _named_dtype(stated)
        if named is not None and named.is_floating_point:
            return named
    return torch.float32


def _named_dtype(stated: Any) -> torch.dtype | None:
    """Return the dtype that a config states as an object of torch or by its name; None for anything else."""
    if isinstance(stated, str):
        stated = getattr(torch, stated.removeprefix("torch."), None)
    return stated if isinstance(stated, torch.dtype) else None


def in_dtype(config: Any, dtype: torch.dtype) -> Any:
    """Return a copy of a config with a dtype set in it and in its sub-configs, as `from_pretrained` does.

    In a config with dtypes by part, transformers 4 gives each sub-config the dtype under its name, and leaves others
    the one that they state; transformers 5 gives all of them the dtype under "" (modeling_utils.py: `_get_dtype`).
    """
    config = copy.deepcopy(config)
    parts = config.dtype if isinstance(getattr(config, "dtype", None), dict) else None
    config.dtype = dtype
    for name in getattr(config, "sub_configs", ()):
        part = getattr(config, name, None)
        if part is not None and parts is not None and _reads_parts():
            part.dtype = _named_dtype(parts.get(name)) or _named_dtype(getattr(part, "dtype", None)) or dtype
        elif part is not None:
            part.dtype = dtype
    return config


def _reads_parts() -> bool:
    return metadata.version("transformers").partition(".")[0] == "4"


def by_part(stated: dict[str, Any]) -> str:
    """Return a sentence on what the installed transformers does with a config that states a dtype for each part.

    Args:
        stated: The dtypes, or their names, by part; `""` stands for the rest.

    Raises:
        TargetError: One of them is no dtype of torch, for which `from_pretrained` raises too.
    """
    if unknown := [one for one in stated.values() if one is not None and _named_dtype(one) is None]:
        raise TargetError(
            f"The config states the dtype {unknown[0]!r}, which torch does not have.",
            'Write the plain name of one of torch: "dtype": {"": "bfloat16"}.',
        )
    said = ", ".join(
        f"{str(one).removeprefix('torch.')} for {part or 'the rest'}" for part, one in stated.items()
    )
    if not _reads_parts():
        return (
            f"The config states dtypes by part ({said}): transformers 5 takes that of the rest, else float32."
        )
    return (
        f"The config states dtypes by part ({said}), which is what was built: from_pretrained(MODEL, dtype={{...}}) of "
        'transformers 4 does so. It raises AttributeError for dtype="auto" with such a config, and takes float32 '
        "without a dtype."
    )


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make new floating-point tensors of this dtype while the context lasts."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def keep_in_float32(model: Any, dtype: torch.dtype) -> None:
    """Cast the parameters that `from_pretrained` leaves in float32, where `dtype` is a 16-bit one.

    transformers' classes name them in `_keep_in_fp32_modules` for float16, and in `_keep_in_fp32_modules_strict` for
    bfloat16 too (modeling_utils.py).
    """
    names: list[str] = []
    if dtype is torch.float16:
        names += getattr(model, "_keep_in_fp32_modules", None) or []
    if dtype in (torch.float16, torch.bfloat16):
        names += getattr(model, "_keep_in_fp32_modules_strict", None) or []
    if not names:
        return
    for name, parameter in model.named_parameters():
        if any(kept in name.split(".") or f".{kept}." in f".{name}." for kept in names):
            parameter.data = parameter.data.to(torch.float32)
