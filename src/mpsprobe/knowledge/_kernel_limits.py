"""The schema of `data/ops/limits.toml`: restrictions inside MPS kernels, as rules to match calls against."""

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

#: Groups of dtypes that a rule may name.
GROUPS: Mapping[str, frozenset[str]] = {
    "integral": frozenset({"uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"}),
    "complex": frozenset({"complex32", "complex64", "complex128"}),
    "half": frozenset({"float16", "bfloat16"}),
}


class Effect(str, enum.Enum):
    """What happens to a call that meets a restriction."""

    RAISES = "raises"
    FALLBACK = "fallback"  #: runs on the CPU, with a warning
    CASTS = "casts"  #: computes in a smaller dtype, with a warning
    ABORTS = "aborts"  #: ends the process

    @property
    def verdict(self) -> OpVerdict | None:
        """Return the verdict on a call with this effect; None for a cast, which runs. An abort counts as raising."""
        if self is Effect.CASTS:
            return None
        return OpVerdict.FALLBACK if self is Effect.FALLBACK else OpVerdict.RAISES


class Quantity(str, enum.Enum):
    """The property of a tensor that a limit bounds, such as its number of bytes."""

    RANK = "rank"  #: the number of dimensions
    ELEMENTS = "elements"
    BYTES = "bytes"
    SIZE = "size"  #: the largest extent


class Tensors(str, enum.Enum):
    """The tensors of a call that a limit concerns: its inputs, its outputs or both."""

    INPUTS = "inputs"
    OUTPUTS = "outputs"
    ANY = "any"


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The bounds on a quantity of a tensor within which a kernel accepts it.

    Attributes:
        what: The quantity.
        most: The largest amount that is accepted; None for no bound.
        least: The smallest amount that is accepted; with 1 element, empty tensors are refused.
        of: The tensors that the limit applies to.
    """

    what: Quantity
    most: int | None = None
    least: int = 0
    of: Tensors = Tensors.ANY

    def allows(self, amount: int) -> bool:
        """Return whether a kernel accepts a tensor with this amount of the quantity."""
        return self.least <= amount and (self.most is None or amount <= self.most)

    def exceeded(self, inputs: Sequence[TensorMeta], outputs: Sequence[TensorMeta]) -> bool:
        """Return whether any of the tensors that the limit concerns lies outside its bounds."""
        tensors = {
            Tensors.INPUTS: (*inputs,),
            Tensors.OUTPUTS: (*outputs,),
            Tensors.ANY: (*inputs, *outputs),
        }
        return any(not self.allows(_amount(self.what, tensor)) for tensor in tensors[self.of])


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A restriction of the arguments that a kernel of PyTorch accepts on MPS.

    Attributes:
        id: A unique id.
        ops: Base names or overload names without `aten::`; `"*"` covers every op.
        message: PyTorch's message, up to values that are filled in; `{dtype}` is replaced by c10's name of the
            refused dtype.
        fragment: The part of the message that is in the binary, where values are filled in; empty for all of it.
        source: Where the rule was read; empty when it is among the texts that the op's kernel can reach in
            these releases.
        since: The first minor release with it; empty for the oldest known.
        until: The last minor release with it; empty for the newest known.
        macos_below: The macOS version below which it applies; empty for every version.
        dtypes: The refused dtypes, or groups of them such as `complex`; empty when the dtype does not matter.
        limit: The limit beyond which the call is refused; None for no limit.
        indivisible: Whether it applies only when, in height or in width, neither the size of the first input nor
            that of the first output divides the other.
        effect: What happens to the call.
        error: Python's exception, where it raises.
        certain: False when the refusal also depends on an argument or a code path that is not described here.
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
        """Return the names of the refused dtypes, with groups such as `complex` replaced by their members."""
        return frozenset().union(*(GROUPS.get(name, frozenset({name})) for name in self.dtypes))

    @property
    def needs_shapes(self) -> bool:
        """Return whether the restriction depends on shapes, so that dtypes cannot decide whether a call meets it."""
        return self.limit is not None or self.indivisible

    def applies(self, inputs: Sequence[TensorMeta], outputs: Sequence[TensorMeta]) -> bool:
        """Return whether a call with these tensors meets every condition of the restriction on dtypes and shapes."""
        if self.dtypes and not any(tensor.dtype in self.refused for tensor in (*inputs, *outputs)):
            return False
        if self.limit is not None and not self.limit.exceeded(inputs, outputs):
            return False
        return not self.indivisible or _indivisible(inputs, outputs)


class MetalOnly(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A dtype with Metal kernels only, which MPS tensors can have although `getMPSDataType` does not list it.

    Attributes:
        dtype: The name of the dtype.
        since: The first minor release with it.
        ops: The base names of the ops that are known to compute with it.
        source: Where that was read.
    """

    dtype: str
    since: str
    ops: tuple[str, ...]
    source: str


class CastRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The error of a copy on MPS from or to a dtype that no kernel of the release supports.

    Attributes:
        message: PyTorch's message where the dtype changes, with `{}` for c10's name of the dtype.
        error: Python's exception there.
        gathers: PyTorch's message where only the strides change (a RuntimeError).
        source: Where that was read.
        since: The first minor release; empty for the oldest known.
        until: The last minor release; empty for the newest known.
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
    """Return every restriction of `data/ops/limits.toml`.

    Raises:
        DataError: The file does not fit its schema.
    """
    return _file().rule


def cast_rules() -> tuple[CastRule, ...]:
    """Return the errors of copies with unsupported dtypes, one entry for each range of releases."""
    return _file().cast


def metal_only() -> tuple[MetalOnly, ...]:
    """Return the dtypes that kernels support only in Metal code, not through MPSGraph."""
    return _file().metal_only


@functools.cache
def moves() -> frozenset[str]:
    """Return the base names of ops that allocate, copy or view memory, whatever its dtype."""
    return frozenset(_file().moves)


def item_size(dtype: str) -> int:
    """Return the bytes of one element of a dtype; 1 for one with less than 8 bits.

    Raises:
        KeyError: The name is not `bool` and holds no number of bits.
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
