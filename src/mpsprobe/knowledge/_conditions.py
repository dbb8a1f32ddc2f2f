"""The condition language of advisories: small, declarative, typed, and three-valued.

A condition is `True`, `False` or `None` on an op use; `None` means that what was recorded does not say.
Nothing here evaluates text. `docs/advisories.md` describes the language for those who write advisories.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from mpsprobe.run import OpUse, TensorMeta

#: Bytes of one element, by dtype name without the `torch.` prefix.
ITEM_SIZE = {
    **dict.fromkeys(("bool", "uint8", "int8", "float8_e4m3fn", "float8_e5m2"), 1),
    **dict.fromkeys(("uint16", "int16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("uint32", "int32", "float32", "complex32"), 4),
    **dict.fromkeys(("uint64", "int64", "float64", "complex64"), 8),
    "complex128": 16,
}

Scalar = bool | int | float | str | None
Relations = Literal["==", "!=", "<", ">", "not a multiple of"]

_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "==": lambda left, right: left == right,
    "!=": lambda left, right: left != right,
    "<": lambda left, right: left < right,
    ">": lambda left, right: left > right,
    "not a multiple of": lambda left, right: right == 0 or left % right != 0,
}


class Mode(str, enum.Enum):
    """What surrounds an op use. Modes do not exclude one another, but for the first two."""

    INFERENCE = "inference"
    TRAINING = "training"
    AUTOCAST = "autocast"


class Range(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A closed interval; an end left out is open."""

    min: float | None = None
    max: float | None = None

    def __contains__(self, number: float) -> bool:
        return (self.min is None or number >= self.min) and (self.max is None or number <= self.max)


class Dim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The size of one dimension.

    Attributes:
        index: which dimension, negative from the end; a tensor without it does not meet the condition.
        min, max: closed bounds of its size.
        multiple_of: its size divides by this without remainder.
        not_multiple_of: its size does not.
    """

    index: int
    min: int | None = None
    max: int | None = None
    multiple_of: int | None = None
    not_multiple_of: int | None = None

    def holds(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape meets it."""
        if not -len(shape) <= self.index < len(shape):
            return False
        size = shape[self.index]
        return (
            size in Range(self.min, self.max)
            and (self.multiple_of is None or size % self.multiple_of == 0)
            and (self.not_multiple_of is None or size % self.not_multiple_of != 0)
        )


class TensorCondition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one tensor of the op use is like; every field that is given must hold.

    Attributes:
        arg: position among the tensor arguments, a list of positions (one of them must meet it), `"any"` or
            `"all"`.
        of: look at the `inputs` or at the `outputs`.
        dtype: one of these.
        rank: number of dimensions.
        dims: sizes of dimensions, all of them.
        numel, bytes: number of elements; their size.
        largest: the largest dimension.
        contiguous: strides are those of a packed row-major tensor.
        transposed: the last dimension is not the one that varies fastest, but the one before it is.
        expanded: a dimension larger than 1 has stride 0.
        channels_last: packed, with the channels varying fastest (rank 4 or 5), and not contiguous as well.
    """

    arg: int | list[int] | Literal["any", "all"] = "any"
    of: Literal["inputs", "outputs"] = "inputs"
    dtype: list[str] | None = None
    rank: int | Range | None = None
    dims: list[Dim] = []
    numel: Range | None = None
    bytes: Range | None = None
    largest: Range | None = None
    contiguous: bool | None = None
    transposed: bool | None = None
    expanded: bool | None = None
    channels_last: bool | None = None

    def holds(self, use: OpUse) -> bool | None:
        """Whether `use` has such a tensor; None when its strides (or all its outputs) were not recorded."""
        tensors = use.inputs if self.of == "inputs" else use.outputs
        if self.of == "outputs" and not tensors:
            return None
        if isinstance(self.arg, int):
            return self._tensor(tensors[self.arg]) if self.arg < len(tensors) else False
        if self.arg == "all":
            return every(self._tensor(tensor) for tensor in tensors) if tensors else False
        chosen = tensors if self.arg == "any" else [tensors[i] for i in self.arg if i < len(tensors)]
        return some(self._tensor(tensor) for tensor in chosen)

    def _tensor(self, tensor: TensorMeta) -> bool | None:
        shape = tensor.shape
        numel = math.prod(shape)
        return every(
            (
                self.dtype is None or tensor.dtype in self.dtype,
                self.rank is None
                or (len(shape) == self.rank if isinstance(self.rank, int) else len(shape) in self.rank),
                all(dim.holds(shape) for dim in self.dims),
                self.numel is None or numel in self.numel,
                self.bytes is None or numel * ITEM_SIZE.get(tensor.dtype, 0) in self.bytes,
                self.largest is None or max(shape, default=0) in self.largest,
                self.contiguous is None or _agrees(is_contiguous(tensor), self.contiguous),
                self.transposed is None or _agrees(is_transposed(tensor), self.transposed),
                self.expanded is None or _agrees(is_expanded(tensor), self.expanded),
                self.channels_last is None or _agrees(is_channels_last(tensor), self.channels_last),
            )
        )


class ScalarCondition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one other argument of the op use is.

    Attributes:
        name: its name in the schema.
        one_of: it is one of these values (text, numbers, booleans; `"None"` in TOML is text, see `given`).
        min, max: closed bounds of a number.
        length: length of a list.
        given: it is not None (true) or is None (false).
        default: the schema's default, used where the recording leaves the argument out. Without a default the
            answer is unknown then.
    """

    name: str
    one_of: list[Scalar] | None = None
    min: float | None = None
    max: float | None = None
    length: Range | None = None
    given: bool | None = None
    default: Scalar | msgspec.UnsetType = msgspec.UNSET

    def holds(self, use: OpUse) -> bool | None:
        """Whether the argument is so; None when it was not recorded and has no default here."""
        value = use.scalars.get(self.name, self.default)
        if value is msgspec.UNSET:
            return None
        if self.given is not None and (value is not None) != self.given:
            return False
        if self.one_of is not None and not any(_same(value, wanted) for wanted in self.one_of):
            return False
        if self.length is not None and not (isinstance(value, list) and len(value) in self.length):
            return False
        if self.min is None and self.max is None:
            return True
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return value in Range(self.min, self.max)


class Size(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A size to compare: of dimension `dim` of tensor argument `arg`, or item `item` of the list `scalar`."""

    arg: int | None = None
    dim: int | None = None
    scalar: str | None = None
    item: int | None = None

    def __post_init__(self) -> None:
        of_tensor = self.arg is not None and self.dim is not None
        of_list = self.scalar is not None and self.item is not None
        if of_tensor == of_list:
            raise ValueError("give either arg and dim, or scalar and item")

    def of(self, use: OpUse) -> int | None:
        """The size in `use`; None where it has none, or where the list was not recorded."""
        if self.arg is not None and self.dim is not None:
            shape = use.inputs[self.arg].shape if self.arg < len(use.inputs) else ()
            return shape[self.dim] if -len(shape) <= self.dim < len(shape) else None
        items = use.scalars.get(self.scalar or "")
        try:
            return int(items[self.item])  # type: ignore[index]  # any JSON value; what is no list has no item
        except (TypeError, ValueError, IndexError):
            return None


class Relation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How two sizes of an op use stand to each other, such as key heads fewer than query heads."""

    left: Size
    relation: Relations
    right: Size

    def holds(self, use: OpUse) -> bool | None:
        """Whether it is so; None when a size is not known."""
        left, right = self.left.of(use), self.right.of(use)
        if left is None or right is None:
            return None
        return _COMPARE[self.relation](left, right)


class Product(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A product of sizes, such as the number of attention scores.

    Attributes:
        sizes: what is multiplied.
        min, max: closed bounds of the product.
    """

    sizes: list[Size]
    min: int | None = None
    max: int | None = None

    def holds(self, use: OpUse) -> bool | None:
        """Whether the product lies within; None when a size is not known."""
        product = 1
        for size in self.sizes:
            found = size.of(use)
            if found is None:
                return None
            product *= found
        return product in Range(self.min, self.max)


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One set of conditions, all of which must hold.

    Attributes:
        tensors, scalars, relations, products: see their types.
        inputs: number of tensor arguments (an optional one, such as a mask or a bias, adds to it).
        mode: what the op use runs under.
        unrecorded: a condition in words that no recording shows (values, storage offsets, load). With it a
            match is never certain.
    """

    tensors: list[TensorCondition] = []
    scalars: list[ScalarCondition] = []
    relations: list[Relation] = []
    products: list[Product] = []
    inputs: Range | None = None
    mode: Mode | None = None
    unrecorded: str = ""

    def holds(self, use: OpUse, modes: frozenset[Mode] | None) -> bool | None:
        """Whether `use` meets it; None when something is not known and nothing speaks against it."""
        return every(answer for _, answer in self._answers(use, modes))

    def unknowns(self, use: OpUse, modes: frozenset[Mode] | None) -> list[str]:
        """What is not known of `use`, in words."""
        return [words for words, answer in self._answers(use, modes) if answer is None]

    def _answers(self, use: OpUse, modes: frozenset[Mode] | None) -> Iterable[tuple[str, bool | None]]:
        if self.inputs is not None:
            yield "", len(use.inputs) in self.inputs
        for tensor in self.tensors:
            yield f"{tensor.of} not recorded in full", tensor.holds(use)
        for scalar in self.scalars:
            yield f"argument {scalar.name} not recorded", scalar.holds(use)
        for relation in self.relations:
            yield "sizes not recorded in full", relation.holds(use)
        for product in self.products:
            yield "sizes not recorded in full", product.holds(use)
        if self.mode is not None:
            yield f"whether it runs under {self.mode.value}", None if modes is None else self.mode in modes
        if self.unrecorded:
            yield self.unrecorded, None


def every(values: Iterable[bool | None]) -> bool | None:
    """And, with unknowns: False if one is False, else None if one is None."""
    seen = set(values)
    return False if False in seen else None if None in seen else True


def some(values: Iterable[bool | None]) -> bool | None:
    """Or, with unknowns: True if one is True, else None if one is None; False of nothing."""
    seen = set(values)
    return True if True in seen else None if None in seen else False


def _agrees(found: bool | None, wanted: bool) -> bool | None:
    return None if found is None else found == wanted


def _same(value: object, wanted: Scalar) -> bool:
    # JSON knows true apart from 1; Python does not.
    return value == wanted and isinstance(value, bool) == isinstance(wanted, bool)


def _packed(shape: Iterable[int], strides: Iterable[int]) -> bool:
    """Whether strides are row-major without gaps, dimensions of size 1 left aside (as PyTorch does)."""
    step = 1
    for size, stride in zip(reversed(tuple(shape)), reversed(tuple(strides)), strict=True):
        if size != 1:
            if stride != step:
                return False
            step *= size
    return True


def _has_strides(tensor: TensorMeta) -> bool:
    return len(tensor.strides) == len(tensor.shape)


def is_contiguous(tensor: TensorMeta) -> bool | None:
    """Row-major and packed; None when the strides are not known."""
    if not _has_strides(tensor):
        return None
    return 0 in tensor.shape or _packed(tensor.shape, tensor.strides)


def is_transposed(tensor: TensorMeta) -> bool | None:
    """The last two dimensions are swapped in memory; None when the strides are not known."""
    if not _has_strides(tensor):
        return None
    if len(tensor.shape) < 2 or min(tensor.shape[-2:]) < 2:
        return False
    return tensor.strides[-2] == 1 and tensor.strides[-1] > 1


def is_expanded(tensor: TensorMeta) -> bool | None:
    """One element stands for several along a dimension; None when the strides are not known."""
    if not _has_strides(tensor):
        return None
    return any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.strides, strict=True))


def is_channels_last(tensor: TensorMeta) -> bool | None:
    """Packed with channels fastest and not row-major too; None when the strides are not known."""
    if not _has_strides(tensor):
        return None
    if len(tensor.shape) not in (4, 5) or is_contiguous(tensor):
        return False
    order = [0, *range(2, len(tensor.shape)), 1]
    return _packed((tensor.shape[i] for i in order), (tensor.strides[i] for i in order))
