"""Compute the ops of a prediction: with real values where tensors are small, with shapes only where they are large.

Ints, bools and small tensors keep real values, so that masks, grids, counters and `.item()` work as in a real run.
The result of an op on a memoryless tensor is memoryless if it is floating-point, and an assumed value if the
program may read it.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from mpsprobe.device.virtual.kernels import COPY, ITEM, Kernel, Kernels, tensors_of
from mpsprobe.device.virtual.memoryless.assume import Assumption, Assumptions
from mpsprobe.device.virtual.memoryless.repeats import Repeats
from mpsprobe.device.virtual.memoryless.shapes import ResultShape, Shapes
from mpsprobe.device.virtual.memoryless.tensors import memoryless_tensors
from mpsprobe.device.virtual.observer import OpFlag
from mpsprobe.device.virtual.rules.attention import scores_bytes
from mpsprobe.device.virtual.schema import Op, OpCall
from mpsprobe.device.virtual.written import RESIZE, replace

_CPU, _META = torch.device("cpu"), torch.device("meta")
_INTEGERS = frozenset({torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})
#: The greatest number of elements of floating-point tensors with values, and of integer tensors with values.
FLOAT_LIMIT, INTEGER_LIMIT = 1 << 16, 1 << 22

_INDEXING = frozenset(
    {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put"}
)
#: Ops whose second (or only) result is an index into a dimension of size n, with the value that is assumed for it.
_INDEX_RESULTS = dict.fromkeys(
    ("argmax", "argmin", "max", "min", "multinomial", "kthvalue", "median", "mode"), "index n // 2"
) | {"topk": "indices in turn, from n // 2 on", "sort": "the order as it is"}


#: Ops whose result is a mask of the elements in some range.
_COMPARISONS = frozenset({"ge", "gt", "le", "lt"})
#: The length that is assumed with `full_masks` where a model computes one, and the greatest number of such lengths.
ASSUMED_LENGTH, _FEW_LENGTHS = 128, 8
_FUSED_ATTENTION = "_scaled_dot_product_attention_math_for_mps"


class MemorylessKernels(Kernels):
    """Run the ops that reach the MPS dispatch key, without computing on large tensors.

    Attributes:
        assumptions: Every value that was assumed.
        memoryless: The maker of memoryless tensors.
        float_limit: The greatest number of elements of floating-point tensors with values.
        full_masks: Whether comparisons of several values hold for all of them, instead of for none, and lengths
            that a model computes are not 0.
    """

    overlaps_count = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.assumptions = Assumptions()
        self.float_limit = FLOAT_LIMIT
        self.full_masks = False
        self.memoryless = memoryless_tensors()
        self._shapes = Shapes()
        self._seen = Repeats(self, self.memoryless, self.assumptions)
        self.special["copy_"] = self._seen.kernel(COPY.overload, lambda _: (self.copy_, True))

    def unregister(self) -> None:
        super().unregister()
        self.assumptions.close()

    def bound_later(self, overload: OpOverload) -> Kernel:
        return self._seen.kernel(overload, self._bound)

    def _bound(self, op: Op) -> tuple[Kernel, bool]:
        """Return an op's kernel, and whether its memoryless results follow from the shapes of its arguments."""
        by_values = op.base in _DATA or op.base in _INDEXING or op.generator is not None
        elsewhere = op.is_view or op.base == "set_" or bool(op.writes and not op.is_inplace)
        return self.bind(op), not (by_values or elsewhere or self.contract.may_fall_back(op))

    def _direct(self, op: Op, full: Kernel) -> Kernel:
        return full

    # ---------------------------------------------------------------------------------------- host and device

    def host(self, tensor: Tensor) -> Tensor:
        """Return the host's view of a real tensor; a memoryless tensor is returned as it is."""
        return tensor if self.memoryless.has(tensor) else super().host(tensor)

    def run(
        self, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], compute: Kernel | None, flags: int
    ) -> Any:
        if self.assumptions.behind(args) is not None:
            flags |= OpFlag.ASSUMED
        return super().run(op, args, kwargs, compute, flags)

    def compute(self, call: OpCall, compute: Kernel | None) -> Any:
        op, host_args, host_kwargs = call.op, call.host_args, call.host_kwargs
        tensors = tensors_of((*host_args, *host_kwargs.values()))
        if op.base in ("empty", "empty_strided") and self._is_large_empty(op, host_args, host_kwargs):
            return self._results(op, self._shapes.of(op, host_args, host_kwargs)[0], None)
        assumed = self.assumptions.behind(call.args)
        if not any(one.is_mps for one in tensors) and not _too_large(op, tensors):
            result = super().compute(call, compute)
            if assumed is not None:
                if op.base == "all":
                    return self._all(op, result)
                self._inherit(op, result, assumed)
            return result
        if op.base in _DATA:
            return self._data_dependent(op, host_args, host_kwargs)
        if op.base in _INDEXING:
            host_args = self._plain_indices(op, host_args)
        if op.base in _ONE_DTYPE:
            _refuse_mixed(op, tensors)
        specs, changed = self._shapes.of(op, host_args, host_kwargs)
        if op.base == _FUSED_ATTENTION and not self._keeps_scores(*host_args[:2]):
            specs = [specs[0], ResultShape(torch.empty(1, dtype=specs[0].dtype, device=_META))]
        if op.writes:
            written = self._write_memoryless(call, changed)
            if op.returns_writes:
                return written[0] if len(written) == 1 else tuple(written)
            if op.returns == 0:
                return None
        return self._results(op, specs, tensors[0] if tensors else None)

    def _keeps_scores(self, query: Tensor, key: Tensor) -> bool:
        self.contract.ask(lambda one: scores_bytes(one.version, query, key) > 0)
        return scores_bytes(self.contract.version, query, key) > 0

    def _is_large_empty(self, op: Op, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
        elements = 1
        for size in args[0]:
            elements *= size
        dtype = kwargs.get("dtype") or torch.get_default_dtype()
        return elements > (INTEGER_LIMIT if dtype in _INTEGERS else self.float_limit)

    def _inherit(self, op: Op, result: Any, assumed: Assumption) -> None:
        """Mark a result as assumed because one of the op's inputs was."""
        for one in tensors_of(result if isinstance(result, (list, tuple)) else (result,)):
            self.assumptions.hold(one, assumed)
        if op.name in _TELLS_SHAPE:
            self.assumptions.depend(assumed, f"{op.qualified} (its result's size)")

    def _write_memoryless(self, call: OpCall, changed: dict[int, ResultShape]) -> list[Any]:
        written = []
        for index, (position, name) in enumerate(call.op.writes):
            target = call.argument(position, name)
            if index in changed:
                replace(target, self._result(call.op, changed[index]))
            elif isinstance(target, Tensor) and target.is_mps and not self.memoryless.has(target):
                self._overwrite_with_unknown(call.op, target)
            written.append(target)
        return written

    def _overwrite_with_unknown(self, op: Op, target: Tensor) -> None:
        """Replace the values of a real tensor that an op overwrites with unknown ones: no memory, or assumed zeros."""
        whole = target.untyped_storage().nbytes() == target.numel() * target.element_size()
        if target.dtype not in _INTEGERS and whole:
            replace(target, self.memoryless.new(tuple(target.shape), target.stride(), target.dtype))
        else:
            super().host(target).zero_()
            self.assumptions.assume(_zero(target.dtype), op.qualified, target)

    def _results(self, op: Op, specs: Any, like: Tensor | None) -> Any:
        if isinstance(specs, list):
            results = [self._results(op, one, like) for one in specs]
            if op.base in _INDEX_RESULTS and len(results) > 1:
                self._fill_indices(op, results[1], like)
            return tuple(results) if op.returns > 1 else results
        if not isinstance(specs, ResultShape):
            return specs
        result = self._result(op, specs)
        if op.base in ("argmax", "argmin", "multinomial"):
            self._fill_indices(op, result, like)
        return result

    def _result(self, op: Op, spec: ResultShape) -> Tensor:
        full = self.full_masks and op.base in _COMPARISONS and spec.numel > 1
        if op.base == "all" or full:
            return self._all(op, self.wrap(op, torch.ones(spec.shape, dtype=spec.dtype, device=_CPU)))
        if spec.dtype in _INTEGERS and spec.numel <= INTEGER_LIMIT:
            tensor = self.wrap(op, _untouched_zeros(spec))
            value = _INDEX_RESULTS.get(op.base) if spec.dtype is torch.int64 else None
            self.assumptions.assume(value or _zero(spec.dtype), op.qualified, tensor)
            return tensor  # type: ignore[no-any-return]
        dtype = spec.dtype
        if dtype in self.contract.questioned:
            dtype = self.contract.refuse(op, torch.empty(0, dtype=dtype, device=_CPU)).dtype
        tensor = self.memoryless.new(spec.shape, spec.strides, dtype)
        self.memory.track(tensor)
        return tensor

    def _all(self, op: Op, result: Tensor) -> Tensor:
        """Fill a result with an assumed True, because models test whether all values are valid and raise if not."""
        super().host(result).fill_(True)
        self.assumptions.assume("True", op.qualified, result)
        return result

    def _fill_indices(self, op: Op, result: Any, like: Tensor | None) -> None:
        """Fill a result with assumed indices into a dimension of size n.

        They are n // 2, away from special tokens; for top-k consecutive ones from n // 2, which route a mixture of
        experts evenly; for a sort those of the order as it is. A memoryless result is left alone.
        """
        if not isinstance(result, Tensor) or result.dtype is not torch.int64 or not result.numel():
            return
        if self.memoryless.has(result) or like is None:
            return
        size, values = like.shape[-1] if like.dim() else 1, super().host(result)
        if op.base == "sort":
            values.copy_(
                torch.arange(size, device=_CPU).expand(values.shape) if values.shape[-1] == size else values
            )
        elif op.base == "topk":
            values.view(-1).copy_((torch.arange(values.numel(), device=_CPU) + size // 2) % size)
        else:
            values.fill_(size // 2)

    # -------------------------------------------------------------------------------------- values and shapes

    def _plain_indices(self, op: Op, args: list[Any]) -> list[Any]:
        """Replace masks among the indices by index tensors of the same length, because only shapes matter here.

        A mask without known values is assumed to select nothing.
        """
        plain: list[Any] = []
        for index in args[1]:
            if not isinstance(index, Tensor) or index.dtype not in (torch.bool, torch.uint8):
                plain.append(index)
            elif index.is_mps:
                self.assumptions.assume("an empty mask", op.qualified)
                plain += [torch.zeros(0, dtype=torch.int64, device=_CPU)] * index.dim()
            else:
                # only the shape counts; the indices themselves take 280 MB for the images in a prompt of Qwen3-VL
                places = torch.empty(int(index.count_nonzero()), dtype=torch.int64, device=_META)
                plain += [places] * index.dim()
        return [args[0], plain, *args[2:]]

    def _data_dependent(self, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Run an op whose result's shape depends on values that a memoryless tensor does not have."""
        value, make = _DATA[op.base]
        result = make(self, op, args, kwargs)
        held = (
            result
            if isinstance(result, Tensor) and result.is_mps and not self.memoryless.has(result)
            else None
        )
        assumption = self.assumptions.assume(value, op.qualified, held)
        self.assumptions.depend(assumption, f"{op.qualified} (its result's size)")
        return result

    def _real(self, op: Op, tensor: Tensor) -> Tensor:
        wrapped: Tensor = self.wrap(op, tensor)
        return wrapped

    def _nonzero(self, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
        return self._real(op, torch.zeros(0, args[0].dim(), dtype=torch.int64, device=_CPU))

    def _masked_select(self, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
        x, mask = args[0], args[1]
        selected = 0
        if not mask.is_mps:
            shape = torch.broadcast_shapes(mask.shape, x.shape)
            selected = int(mask.expand(shape).sum())
        return self.memoryless.new((selected,), (1,), x.dtype)

    def _unique(self, op: Op, args: list[Any], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        x = args[0]
        inverse = torch.zeros(
            (x.shape[0],) if op.base.startswith("unique_dim") else x.shape, dtype=torch.int64, device=_CPU
        )
        one = self.memoryless.new(
            (1, *x.shape[1:]) if op.base.startswith("unique_dim") else (1,), (1,) * max(x.dim(), 1), x.dtype
        )
        counts = torch.full((1,), x.numel(), device=_CPU)
        return one, self._real(op, inverse), self._real(op, counts)

    def _histogram(self, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
        bins = (
            op.argument(2, "minlength", args, kwargs)
            if op.base == "bincount"
            else op.argument(1, "bins", args, kwargs)
        )
        dtype = torch.int64 if op.base == "bincount" else args[0].dtype
        return self._real(op, torch.zeros(max(1, bins or 0), dtype=dtype, device=_CPU))

    def _repeats(self, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
        return self._real(op, torch.arange(args[0].numel(), device=_CPU))

    def _unequal(self, op: Op, args: list[Any], kwargs: dict[str, Any]) -> bool:
        return False

    # -------------------------------------------------------------------------------------------- special ops

    def copy_(self, dst: Tensor, src: Tensor, non_blocking: bool = False) -> Tensor:
        known_dst = not (dst.is_mps and self.memoryless.has(dst))
        known_src = not (src.is_mps and self.memoryless.has(src))
        if known_dst and known_src:
            result = super().copy_(dst, src, non_blocking)
            assumed = self.assumptions.behind((src,))
            if assumed is not None:
                self.assumptions.hold(dst, assumed)
            return result
        self.contract.check_copy(COPY, dst, src)
        if self.full_masks and known_dst and dst.dtype in _INTEGERS and 0 < dst.numel() <= _FEW_LENGTHS:
            super().host(dst).fill_(ASSUMED_LENGTH)
            self.assumptions.assume(str(ASSUMED_LENGTH), COPY.qualified, dst)
        elif known_dst and dst.is_mps:
            self._overwrite_with_unknown(COPY, dst)
        elif known_dst:
            _fill_with_zeros(dst)
            self.assumptions.assume(_zero(dst.dtype), COPY.qualified, dst)
        self._told_copy(dst, src, non_blocking)
        return dst

    def resize_(
        self, tensor: Tensor, size: list[int], *, memory_format: torch.memory_format | None = None
    ) -> Tensor:
        elements = 1
        for one in size:
            elements *= one
        large = elements > (INTEGER_LIMIT if tensor.dtype in _INTEGERS else self.float_limit)
        if not large and not self.memoryless.has(tensor):
            return super().resize_(tensor, size, memory_format=memory_format)
        spec = ResultShape(torch.empty(size, dtype=tensor.dtype, device="meta"))
        replace(tensor, self._result(RESIZE, spec))
        return tensor

    def local_scalar(self, tensor: Tensor) -> Any:
        if not self.memoryless.has(tensor):
            assumed = self.assumptions.behind((tensor,))
            if assumed is not None:
                self.assumptions.depend(assumed, "a value read by the host")
            return super().local_scalar(tensor)
        if self.observer is not None:
            self.observer.op(ITEM.overload, (tensor,), {}, None, OpFlag.ASSUMED)
            self.observer.sync("item")
        assumption = self.assumptions.assume(_zero(tensor.dtype), ITEM.qualified)
        self.assumptions.depend(assumption, "a value read by the host")
        return torch.zeros((), dtype=tensor.dtype, device=_CPU).item()


_TELLS_SHAPE = frozenset({"nonzero", "masked_select", "_unique2", "repeat_interleave.Tensor", "bincount"})
_DATA: dict[str, tuple[str, Any]] = {
    "nonzero": ("no element", MemorylessKernels._nonzero),
    "masked_select": ("as many as a known mask selects, else none", MemorylessKernels._masked_select),
    "_unique2": ("one distinct value", MemorylessKernels._unique),
    "unique_dim": ("one distinct value", MemorylessKernels._unique),
    "unique_consecutive": ("one distinct value", MemorylessKernels._unique),
    "unique_dim_consecutive": ("one distinct value", MemorylessKernels._unique),
    "bincount": ("zeros", MemorylessKernels._histogram),
    "histc": ("zeros", MemorylessKernels._histogram),
    "repeat_interleave": ("each once", MemorylessKernels._repeats),
    "equal": ("False", MemorylessKernels._unequal),
    "is_nonzero": ("False", MemorylessKernels._unequal),
}


def _untouched_zeros(spec: ResultShape) -> Tensor:
    """Return zeros on the host; large ones are in separate pages, which take memory only when written to."""
    nbytes = spec.numel * spec.dtype.itemsize
    if nbytes < _OWN_PAGES:
        return torch.empty_strided(spec.shape, spec.strides, dtype=spec.dtype, device=_CPU).zero_()
    extent = 1 + sum((size - 1) * stride for size, stride in zip(spec.shape, spec.strides, strict=True))
    pages = mmap.mmap(-1, extent * spec.dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=spec.dtype).as_strided(spec.shape, spec.strides)


_OWN_PAGES = 1 << 20


def _zero(dtype: torch.dtype) -> str:
    return "False" if dtype is torch.bool else "0"


#: Ops whose kernels require operands of one dtype, which the kernels for shapes do not check.
_ONE_DTYPE = frozenset({"mm", "bmm", "addmm", "baddbmm", "addbmm", "linear", "mv", "dot"})


def _refuse_mixed(op: Op, tensors: Sequence[Tensor]) -> None:
    """Raise PyTorch's error for operands of two dtypes, by running the op on one element of each.

    Raises:
        RuntimeError: The dtypes differ, as in "mat1 and mat2 must have the same dtype, but got Float and BFloat16".
    """
    if len({one.dtype for one in tensors}) > 1:
        op.call(*[torch.ones((1,) * one.dim(), dtype=one.dtype, device=_CPU) for one in tensors])


def _too_large(op: Op, tensors: Sequence[Tensor]) -> bool:
    """Return whether computing real values would take long: many elements, or few that broadcast to many."""
    if not tensors:
        return False
    if any(one.numel() > INTEGER_LIMIT for one in tensors):
        return True
    if len(tensors) < 2 or op.base in ("cat", "index", "embedding"):
        return False
    rank = max(one.dim() for one in tensors)
    elements = 1
    for k in range(1, rank + 1):
        elements *= max((one.shape[-k] for one in tensors if one.dim() >= k), default=1)
    return elements > 4 * INTEGER_LIMIT


def _fill_with_zeros(host: Tensor) -> None:
    """Fill a CPU tensor with zeros; a large one with a storage of its own and no gradient gets new, unwritten pages."""
    whole = host.untyped_storage().nbytes() == host.numel() * host.element_size()
    if host.numel() > INTEGER_LIMIT and whole and not host.requires_grad:
        host.set_(torch.zeros(host.shape, dtype=host.dtype, device=_CPU))  # type: ignore[call-overload]
    else:
        host.detach().zero_()
