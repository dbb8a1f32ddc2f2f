"""The condition language of advisories: small, declarative, typed and three-valued.

The value of a condition for an op use is `True`, `False` or `None`; `None` means that the recording does not show
it. A lower bound on a size that grows with the workload also yields the smallest size at which it holds; see
`Threshold`. No text is ever evaluated as code. `docs/advisories.md` describes the language for authors of
advisories.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import msgspec

from mpsprobe.knowledge._calls import ITEM_SIZE, LAYOUTS
from mpsprobe.run import OpUse, TensorMeta

Scalar = bool | int | float | str | None
Relations = Literal["==", "!=", "<", ">", "not a multiple of", "two or more over a multiple of"]

#: The unit of a growing size: tokens of a prompt or cache, items of a batch, samples of a signal, pixels of a side.
Growing = Literal["tokens", "items", "samples", "pixels", "channels"]

_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "==": lambda left, right: left == right,
    "!=": lambda left, right: left != right,
    "<": lambda left, right: left < right,
    ">": lambda left, right: left > right,
    "not a multiple of": lambda left, right: right == 0 or left % right != 0,
    "two or more over a multiple of": lambda left, right: right != 0 and left % right > 1,
}


class Mode(str, enum.Enum):
    """What an op use runs under: training, inference or autocast. Only the first two exclude each other."""

    INFERENCE = "inference"
    TRAINING = "training"
    AUTOCAST = "autocast"


class Bounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A closed interval of numbers; there is no bound at an end that is None."""

    min: float | None = None
    max: float | None = None

    def __contains__(self, number: float) -> bool:
        return (self.min is None or number >= self.min) and (self.max is None or number <= self.max)


class Threshold(msgspec.Struct, frozen=True, order=True):
    """The smallest size at which a condition holds that a call does not meet yet.

    Attributes:
        needed: The smallest size that meets it.
        now: The size in this call.
        unit: The unit of both sizes.
    """

    needed: int
    now: int
    unit: str

    def __str__(self) -> str:
        return f"from {self.needed:,} {self.unit} on (this call has {self.now:,})"


class Dim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A condition on the size of one dimension.

    Attributes:
        index: The index of the dimension, negative from the end. A tensor without it does not meet the condition.
        min: The smallest size that meets it; None for no bound.
        max: The largest size that meets it; None for no bound.
        multiple_of: A divisor of the size; None for no condition.
        not_multiple_of: A number that does not divide the size; None for no condition.
        grows: The unit of the size where a larger workload increases it; allowed only with `min`.
    """

    index: int
    min: int | None = None
    max: int | None = None
    multiple_of: int | None = None
    not_multiple_of: int | None = None
    grows: Growing | None = None

    def threshold(self, shape: tuple[int, ...]) -> Threshold | None:
        """Return the size that a tensor of this shape must reach to meet the lower bound `min`.

        None when it already does, when the shape lacks the dimension, or when the condition states no `grows` or no
        `min`.
        """
        if self.grows is None or self.min is None or not -len(shape) <= self.index < len(shape):
            return None
        size = shape[self.index]
        return Threshold(self.min, size, self.grows) if size < self.min else None

    def holds(self, shape: tuple[int, ...]) -> bool:
        """Return whether a tensor of this shape meets the condition; one without the dimension does not."""
        if not -len(shape) <= self.index < len(shape):
            return False
        size = shape[self.index]
        return (
            size in Bounds(self.min, self.max)
            and (self.multiple_of is None or size % self.multiple_of == 0)
            and (self.not_multiple_of is None or size % self.not_multiple_of != 0)
        )


class TensorCondition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A condition on one tensor of the op use; every field that is given must hold.

    Attributes:
        arg: The position among the tensors of the op use, a list of positions of which one must match, `"any"` or
            `"all"`.
        of: Whether the condition is about the `inputs` or the `outputs`.
        dtype: The dtypes, of which the tensor must have one.
        rank: The number of dimensions.
        dims: Conditions on sizes of dimensions, all of which must hold.
        numel: The bounds of the number of elements.
        bytes: The bounds of the size in bytes.
        largest: The bounds of the largest dimension.
        contiguous: Whether the strides are those of a packed row-major tensor.
        transposed: Whether the last two dimensions are swapped in memory.
        expanded: Whether a dimension larger than 1 has stride 0.
        channels_last: Whether the tensor is packed in channels-last order (rank 4 or 5) and not contiguous as
            well.
        heads_inside: Whether the tensor is a (batch, heads, length, width) view of a packed (batch, length, heads,
            width) and not contiguous.
        device: The device type, such as `"cpu"` for a scalar tensor among those of the GPU.
        grows: The unit, and the dimensions (all of that size) by which a larger workload increases `numel` or
            `bytes`.
    """

    arg: int | list[int] | Literal["any", "all"] = "any"
    of: Literal["inputs", "outputs"] = "inputs"
    dtype: list[str] | None = None
    rank: int | Bounds | None = None
    dims: list[Dim] = []
    numel: Bounds | None = None
    bytes: Bounds | None = None
    largest: Bounds | None = None
    contiguous: bool | None = None
    transposed: bool | None = None
    expanded: bool | None = None
    channels_last: bool | None = None
    heads_inside: bool | None = None
    device: str | None = None
    grows: tuple[Growing, list[int]] | None = None

    def holds(self, use: OpUse, later: list[Threshold] | None = None) -> bool | None:
        """Return whether `use` has such a tensor; None when strides, a device or all outputs were not recorded.

        Args:
            use: The op use.
            later: When given, growing sizes count as large enough, and their thresholds are appended to this
                list.
        """
        tensors = use.inputs if self.of == "inputs" else use.outputs
        if self.of == "outputs" and not tensors:
            return None
        if isinstance(self.arg, int):
            return self._tensor(tensors[self.arg], later) if self.arg < len(tensors) else False
        if self.arg == "all":
            return every(self._tensor(tensor, later) for tensor in tensors) if tensors else False
        chosen = tensors if self.arg == "any" else [tensors[i] for i in self.arg if i < len(tensors)]
        return some(self._tensor(tensor, later) for tensor in chosen)

    def _tensor(self, tensor: TensorMeta, later: list[Threshold] | None) -> bool | None:
        if later is None:
            return every(self._answers(tensor))
        thresholds = self._thresholds(tensor)
        if not thresholds:
            return every(self._answers(tensor))
        grown = msgspec.structs.replace(
            tensor, shape=_grown(tensor.shape, thresholds), strides=tensor.strides
        )
        answer = every(self._answers(grown, tensor))
        if answer is not False:
            later += [threshold for _, threshold in thresholds]
        return answer

    def _thresholds(self, tensor: TensorMeta) -> list[tuple[list[int], Threshold]]:
        """Return the growing dimensions of each lower bound that growth can meet, and the size that they must reach."""
        shape = tensor.shape
        found = [
            ([dim.index], threshold) for dim in self.dims if (threshold := dim.threshold(shape)) is not None
        ]
        if self.grows is None:
            return found
        unit, dims = self.grows
        if any(not -len(shape) <= dim < len(shape) for dim in dims):
            return found
        wanted = []
        if self.numel is not None and self.numel.min is not None:
            wanted.append((self.numel.min, math.prod(shape)))
        if self.bytes is not None and self.bytes.min is not None:
            wanted.append((self.bytes.min, math.prod(shape) * ITEM_SIZE.get(tensor.dtype, 0)))
        for least, now in wanted:
            if now < least and (reached := _size_for(least, now, [shape[dim] for dim in dims])) is not None:
                found.append((dims, Threshold(reached, shape[dims[0]], unit)))
        return found

    def _answers(self, tensor: TensorMeta, recorded: TensorMeta | None = None) -> Iterator[bool | None]:
        # The cheapest and most selective tests come first.
        shape = tensor.shape
        if self.dtype is not None:
            yield tensor.dtype in self.dtype
        if self.rank is not None:
            yield len(shape) == self.rank if isinstance(self.rank, int) else len(shape) in self.rank
        for dim in self.dims:
            yield dim.holds(shape)
        if self.numel is not None:
            yield math.prod(shape) in self.numel
        if self.bytes is not None:
            yield math.prod(shape) * ITEM_SIZE.get(tensor.dtype, 0) in self.bytes
        if self.largest is not None:
            yield max(shape, default=0) in self.largest
        if self.device is not None:
            yield tensor.device.partition(":")[0] == self.device if tensor.device else None
        for layout in LAYOUTS:
            wanted = getattr(self, layout)
            if wanted is not None:
                found = LAYOUTS[layout](recorded or tensor)
                yield None if found is None else found == wanted


def _grown(shape: tuple[int, ...], thresholds: Iterable[tuple[list[int], Threshold]]) -> tuple[int, ...]:
    sizes = list(shape)
    for dims, threshold in thresholds:
        for dim in dims:
            sizes[dim] = max(sizes[dim], threshold.needed)
    return tuple(sizes)


def _size_for(least: float, now: int, sizes: list[int]) -> int | None:
    """Return the size at which equal factors that now give the product `now` give at least `least`.

    None when `sizes` is empty, holds different sizes or is not positive, or when `now` is not.
    """
    if now <= 0 or not sizes or len(set(sizes)) > 1 or sizes[0] <= 0:
        return None
    reached: float = sizes[0] * (least / now) ** (1 / len(sizes))
    return math.ceil(reached - 1e-9)


class ScalarCondition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A condition on one argument that is not a tensor.

    Attributes:
        name: The name of the argument in the schema.
        one_of: The values, of which the argument must have one (`True` differs from `1`); None for no condition.
        min: The smallest number that meets it; None for no bound.
        max: The largest number that meets it; None for no bound.
        length: The bounds of the length of a list.
        given: Whether the argument must have a value other than None; False is also met by one that was not
            recorded. None for no condition.
        default: The schema's default for an argument that was not recorded. Without it the answer is then
            unknown.
    """

    name: str
    one_of: list[Scalar] | None = None
    min: float | None = None
    max: float | None = None
    length: Bounds | None = None
    given: bool | None = None
    default: Scalar | msgspec.UnsetType = msgspec.UNSET

    def holds(self, use: OpUse) -> bool | None:
        """Return whether the argument meets it; None when it was not recorded and has no default here."""
        if self.given is not None and (use.scalars.get(self.name) is not None) != self.given:
            return False
        if self.one_of is None and self.length is None and self.min is None and self.max is None:
            return True
        value = use.scalars.get(self.name, self.default)
        if value is msgspec.UNSET:
            return None
        if self.one_of is not None and not any(_same(value, wanted) for wanted in self.one_of):
            return False
        if self.length is not None and not (isinstance(value, list) and len(value) in self.length):
            return False
        if self.min is None and self.max is None:
            return True
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return value in Bounds(self.min, self.max)


class Size(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A size to compare, given in one of two ways.

    Attributes:
        arg: The position of a tensor argument; given together with `dim`.
        dim: The index of its dimension.
        scalar: The name of a list argument; given together with `item`.
        item: The index of its item.

    Raises:
        ValueError: Neither pair is complete, or both are.
    """

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
        """Return the size in `use`; None where tensor, dimension, list or item is missing, or the item is no number."""
        if self.arg is not None and self.dim is not None:
            shape = use.inputs[self.arg].shape if self.arg < len(use.inputs) else ()
            return shape[self.dim] if -len(shape) <= self.dim < len(shape) else None
        items = use.scalars.get(self.scalar or "")
        try:
            return int(items[self.item])  # type: ignore[index]  # any JSON value; what is no list has no item
        except (TypeError, ValueError, IndexError):
            return None


class Relation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A condition that compares two sizes of an op use, such as fewer key heads than query heads."""

    left: Size
    relation: Relations
    right: Size

    def holds(self, use: OpUse) -> bool | None:
        """Return whether the relation holds; None when a size is unknown."""
        left, right = self.left.of(use), self.right.of(use)
        if left is None or right is None:
            return None
        return _COMPARE[self.relation](left, right)


class SizeProduct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A condition on a product of sizes, such as the number of attention scores.

    Attributes:
        sizes: The factors.
        min: The smallest product that meets it; None for no bound.
        max: The largest product that meets it; None for no bound.
        grows: The unit, and the positions in `sizes` of the factors that a larger workload increases; allowed only
            with `min`.
    """

    sizes: list[Size]
    min: int | None = None
    max: int | None = None
    grows: tuple[Growing, list[int]] | None = None

    def holds(self, use: OpUse, later: list[Threshold] | None = None) -> bool | None:
        """Return whether the product is within the bounds, now or after growth; None when a size is unknown.

        Args:
            use: The op use.
            later: When given, growing sizes count as large enough, and their threshold is appended to this list.
        """
        sizes = [size.of(use) for size in self.sizes]
        known = [size for size in sizes if size is not None]
        if len(known) < len(sizes):
            return None
        product = math.prod(known)
        if product in Bounds(self.min, self.max):
            return True
        if later is None or self.grows is None or self.min is None or product >= self.min:
            return False
        unit, places = self.grows
        growing = [known[place] for place in places]
        # Sizes that differ (queries over a longer cache) grow to the same size, so the larger of them counts.
        largest = max(growing, default=0)
        fixed = product // math.prod(growing) if math.prod(growing) else 0
        reached = _size_for(self.min, fixed * largest ** len(growing), [largest] * len(growing))
        if reached is None:
            return False
        later.append(Threshold(reached, min(growing), unit))
        return True


class Conditions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One set of conditions, all of which must hold.

    Attributes:
        tensors: Conditions on tensors.
        scalars: Conditions on other arguments.
        relations: Comparisons of two sizes.
        products: Conditions on products of sizes.
        inputs: The bounds of the number of tensor arguments (an optional one, such as a mask or a bias, adds
            to it).
        dtypes: Whether the input tensors all have one dtype, or at least two of them differ. None for no
            condition.
        mode: The mode that the op use must run under.
        unrecorded: A circumstance in words that no recording shows, such as values, storage offsets or earlier
            calls. With it a match is never certain.
    """

    tensors: list[TensorCondition] = []
    scalars: list[ScalarCondition] = []
    relations: list[Relation] = []
    products: list[SizeProduct] = []
    inputs: Bounds | None = None
    dtypes: Literal["equal", "different"] | None = None
    mode: Mode | None = None
    unrecorded: str = ""

    def holds(
        self, use: OpUse, modes: frozenset[Mode] | None, later: list[Threshold] | None = None
    ) -> bool | None:
        """Return whether `use` meets the conditions; None when one is unknown and none is violated.

        Args:
            use: The op use.
            modes: The modes that it runs under; None when unknown.
            later: When given, growing sizes count as large enough, and their thresholds are appended to this
                list.
        """
        return every(self._answers(use, modes, later))

    def unknowns(self, use: OpUse, modes: frozenset[Mode] | None) -> list[str]:
        """Return in words the facts that the conditions ask for and that this recording of `use` lacks."""
        words = [f"{tensor.of} not recorded in full" for tensor in self.tensors if tensor.holds(use) is None]
        words += [
            f"argument {scalar.name} not recorded" for scalar in self.scalars if scalar.holds(use) is None
        ]
        sizes: tuple[Relation | SizeProduct, ...] = (*self.relations, *self.products)
        if any(condition.holds(use) is None for condition in sizes):
            words.append("sizes not recorded in full")
        if self.mode is not None and modes is None:
            words.append(f"whether it runs under {self.mode.value}")
        return words

    def _answers(
        self, use: OpUse, modes: frozenset[Mode] | None, later: list[Threshold] | None
    ) -> Iterator[bool | None]:
        if self.inputs is not None:
            yield len(use.inputs) in self.inputs
        if self.dtypes is not None:
            yield (len({tensor.dtype for tensor in use.inputs}) > 1) == (self.dtypes == "different")
        for condition in self.tensors:
            yield condition.holds(use, later)
        for scalar in self.scalars:
            yield scalar.holds(use)
        for relation in self.relations:
            yield relation.holds(use)
        for product in self.products:
            yield product.holds(use, later)
        if self.mode is not None:
            yield None if modes is None else self.mode in modes
        if self.unrecorded:
            yield None


def every(values: Iterable[bool | None]) -> bool | None:
    """Return the conjunction of three-valued answers: False if one is False, else None if one is None."""
    known = True
    for value in values:
        if value is False:
            return False
        known = known and value is not None
    return True if known else None


def some(values: Iterable[bool | None]) -> bool | None:
    """Return the disjunction of three-valued answers: True if one is True, else None if one is None."""
    known = True
    for value in values:
        if value:
            return True
        known = known and value is not None
    return False if known else None


def _same(value: object, wanted: Scalar) -> bool:
    # JSON distinguishes true from 1; Python does not.
    return value == wanted and isinstance(value, bool) == isinstance(wanted, bool)
