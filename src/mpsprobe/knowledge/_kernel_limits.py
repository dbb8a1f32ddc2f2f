"""The form of `data/ops/limits.toml`: restrictions inside MPS kernels, as rules to match calls against."""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from mpsprobe import toml
from mpsprobe.run import OpVerdict, TensorMeta

#: Groups that a rule may name instead of dtypes.
GROUPS: Mapping[str, frozenset[str]] = {
    "integral": frozenset({"uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"}),
    "complex": frozenset({"complex32", "complex64", "complex128"}),
    "half": frozenset({"float16", "bfloat16"}),
}


class Effect(str, enum.Enum):
    """What a restriction does to a call."""

    RAISES = "raises"
    FALLBACK = "fallback"  #: runs on the CPU, with a warning
    CASTS = "casts"  #: computes in a smaller dtype, with a warning
    ABORTS = "aborts"  #: ends the process

    @property
    def verdict(self) -> OpVerdict | None:
        """What it makes of a call that would otherwise run: an abort counts as raising, None: it still runs."""
        if self is Effect.CASTS:
            return None
        return OpVerdict.FALLBACK if self is Effect.FALLBACK else OpVerdict.RAISES


class Quantity(str, enum.Enum):
    """What a limit counts, of one tensor."""

    RANK = "rank"  #: dimensions
    ELEMENTS = "elements"
    BYTES = "bytes"
    SIZE = "size"  #: the largest extent


class Tensors(str, enum.Enum):
    """Which tensors of a call a limit looks at; one beyond it is enough."""

    INPUTS = "inputs"
    OUTPUTS = "outputs"
    ANY = "any"


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The most, or the least, a kernel takes.

    Attributes:
        what: the quantity.
        most: its largest allowed value; None: any.
        least: its smallest allowed value: 1 element refuses an empty tensor.
        of: the tensors looked at.
    """

    what: Quantity
    most: int | None = None
    least: int = 0
    of: Tensors = Tensors.ANY

    def allows(self, amount: int) -> bool:
        """Return whether a kernel takes a tensor with this much of the quantity."""
        return self.least <= amount and (self.most is None or amount <= self.most)

    def exceeded(self, inputs: Sequence[TensorMeta], outputs: Sequence[TensorMeta]) -> bool:
        """Whether one of the tensors looked at is beyond it."""
        tensors = {
            Tensors.INPUTS: (*inputs,),
            Tensors.OUTPUTS: (*outputs,),
            Tensors.ANY: (*inputs, *outputs),
        }
        return any(not self.allows(_amount(self.what, tensor)) for tensor in tensors[self.of])


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One restriction.

    Attributes:
        id: unique.
        ops: base names or overload names without `aten::`; `"*"` is every op.
        message: PyTorch's text, up to values filled in; `{dtype}` stands for c10's name of the refused dtype.
        fragment: the part of it that stands in the binary, where values are filled in; empty: all of it.
        source: where it was read; empty: among the texts that the op's kernel can reach, in these releases.
        since, until: first and last minor release with it; empty: as far as we know any.
        macos_below: holds on older systems only.
        dtypes: dtypes, or groups of them, that it refuses; empty: any.
        limit: refused only beyond it.
        indivisible: refused only when height or width of the first input and of the first output do not divide
            each other.
        effect: what happens.
        error: Python's exception, where it raises.
        certain: False: it also takes an argument, or a path, that is not described here.
    """

    id: str
    ops: tuple[str, ...]
    message: str
    fragment: str = ""
    source: str = ""
    since: str = ""
    until: str = ""
    macos_below: str = ""
    dtypes: tuple[str, ...] = ()
    limit: Limit | None = None
    indivisible: bool = False
    effect: Effect = Effect.RAISES
    error: Literal["RuntimeError", "NotImplementedError"] = "RuntimeError"
    certain: bool = True

    @property
    def refused(self) -> frozenset[str]:
        """Its dtypes, with groups written out."""
        return frozenset().union(*(GROUPS.get(name, frozenset({name})) for name in self.dtypes))

    @property
    def needs_shapes(self) -> bool:
        """Whether dtypes alone cannot say if it applies."""
        return self.limit is not None or self.indivisible

    def applies(self, inputs: Sequence[TensorMeta], outputs: Sequence[TensorMeta]) -> bool:
        """Whether a call with these tensors meets it."""
        if self.dtypes and not any(tensor.dtype in self.refused for tensor in (*inputs, *outputs)):
            return False
        if self.limit is not None and not self.limit.exceeded(inputs, outputs):
            return False
        return not self.indivisible or _indivisible(inputs, outputs)


class MetalOnly(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A dtype that MPS tensors can have although `getMPSDataType` does not list it: it has Metal kernels only.

    Attributes:
        dtype: its name.
        since: first minor release with it.
        ops: base names of the ops that are known to compute with it.
        source: where that was read.
    """

    dtype: str
    since: str
    ops: tuple[str, ...]
    source: str


class CastRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What copies on MPS say to a dtype that no kernel of the release knows.

    Attributes:
        since, until: first and last minor release; empty: as far as we know any.
        message: PyTorch's text where the dtype changes, with `{}` for c10's name of the dtype.
        error: Python's exception there.
        gathers: the text where only the strides change (a RuntimeError).
        source: where that was read.
    """

    message: str
    error: Literal["RuntimeError", "TypeError"]
    gathers: str
    source: str
    since: str = ""
    until: str = ""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    moves: tuple[str, ...]
    cast: tuple[CastRule, ...]
    metal_only: tuple[MetalOnly, ...]
    rule: tuple[Rule, ...]


@functools.cache
def _file() -> _File:
    return toml.load(Path(__file__).parent / "data" / "ops" / "limits.toml", _File)


def all_rules() -> tuple[Rule, ...]:
    """Every rule of the file.

    Raises:
        DataError: it does not have its form.
    """
    return _file().rule


def cast_rules() -> tuple[CastRule, ...]:
    """Return what copies say to unknown dtypes, by release."""
    return _file().cast


def metal_only() -> tuple[MetalOnly, ...]:
    """Dtypes with Metal kernels only."""
    return _file().metal_only


@functools.cache
def moves() -> frozenset[str]:
    """Return the base names of ops that allocate, copy or view memory and do not ask what it holds."""
    return frozenset(_file().moves)


def item_size(dtype: str) -> int:
    """Bytes of one element of a dtype named as torch names it.

    Raises:
        KeyError: not a dtype with a size in its name.
    """
    if dtype == "bool":
        return 1
    digits = dtype.lstrip("abcdefghijklmnopqrstuvwxyz").partition("_")[0]
    if not digits.isdigit():
        raise KeyError(dtype)
    return max(int(digits) // 8, 1)


def _indivisible(inputs: Sequence[TensorMeta], outputs: Sequence[TensorMeta]) -> bool:
    if not inputs or not outputs:
        return False
    pairs = zip(inputs[0].shape[-2:], outputs[0].shape[-2:], strict=True)
    return any(max(pair) % max(min(pair), 1) for pair in pairs)


def _amount(what: Quantity, tensor: TensorMeta) -> int:
    if what is Quantity.RANK:
        return len(tensor.shape)
    if what is Quantity.SIZE:
        return max(tensor.shape, default=0)
    elements = math.prod(tensor.shape)
    return elements if what is Quantity.ELEMENTS else elements * item_size(tensor.dtype)
