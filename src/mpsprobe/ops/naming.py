"""The name of an op use, such as `aten.cholesky_solve-f32-1x17x1`: stable and readable, for tests and for files."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from mpsprobe.run import OpUse, TensorMeta

_SHORT = {
    "float16": "f16",
    "bfloat16": "bf16",
    "float32": "f32",
    "float64": "f64",
    "complex64": "c64",
    "complex128": "c128",
    "int8": "i8",
    "int16": "i16",
    "int32": "i32",
    "int64": "i64",
    "uint8": "u8",
}
#: Arguments that state where to compute rather than what.
_PLACE = ("device", "layout", "pin_memory", "memory_format", "generator")
#: The greatest length of a list of arguments; a longer one is named by its digest.
_LONGEST = 48


def use_name(use: OpUse) -> str:
    """Return `OP-DTYPES-SHAPES`, then other arguments and strides where there are any.

    Runs of equal items are written once: `24x64*16` means sixteen tensors of that shape. A tensor that is not
    packed has its strides after its shape: `5x499x768~0.768.1`. A tensor without dimensions is `0d`.

    >>> use_name(OpUse(op="aten::cat", inputs=[TensorMeta("float32", (2, 3), (3, 1))] * 2, scalars={"dim": -1}))
    'aten.cat-f32-2x3*2-dim=-1'
    """
    dtypes = "_".join(dict.fromkeys(_SHORT.get(tensor.dtype, tensor.dtype) for tensor in use.inputs))
    shapes = "_".join(_runs(map(_shape, use.inputs)))
    parts = [use.op.replace("::", "."), dtypes, shapes, _arguments(use)]
    return "-".join(part for part in parts if part)


def is_packed(tensor: TensorMeta) -> bool:
    """Return whether the tensor is contiguous, in PyTorch's sense."""
    step = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=False):
        if size == 0:
            return True
        if size != 1 and stride != step:
            return False
        step *= size
    return True


def _shape(tensor: TensorMeta) -> str:
    shape = "x".join(map(str, tensor.shape)) or "0d"
    strides = "" if is_packed(tensor) else "~" + ".".join(map(str, tensor.strides))
    return shape + strides


def _runs(items: Iterable[str]) -> list[str]:
    counted = [(item, sum(1 for _ in group)) for item, group in itertools.groupby(items)]
    return [item if count == 1 else f"{item}*{count}" for item, count in counted]


def _arguments(use: OpUse) -> str:
    """Return other arguments that distinguish one use from another, as `name=value`."""
    told = {
        name: value
        for name, value in use.scalars.items()
        if name not in _PLACE and value is not None and not _holds_tensors(value)
    }
    text = ",".join(f"{name}={_value(value)}" for name, value in told.items())
    # characters that pytest's ids or shells would have to escape are replaced
    text = re.sub(r"[^\w.,=+~*-]", "", text)
    if len(text) <= _LONGEST:
        return text
    return hashlib.blake2b(msgspec.json.encode(told), digest_size=4).hexdigest()


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, list) and "tensor" in value and all(item in ("tensor", None) for item in value)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "x".join(map(_value, value)) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def unique_names(uses: Sequence[OpUse]) -> list[str]:
    """Return a name for each op use; equal names (of uses that differ in what a name leaves out) get a digest."""
    names = [use_name(use) for use in uses]
    twice = {name for name in names if names.count(name) > 1}
    return [
        f"{name}-{_digest(use)}" if name in twice else name for name, use in zip(names, uses, strict=True)
    ]


def _digest(use: OpUse) -> str:
    signature = (use.op, use.inputs, use.outputs, use.scalars)
    return hashlib.blake2b(msgspec.json.encode(signature), digest_size=4).hexdigest()
