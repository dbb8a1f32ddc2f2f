"""The least number of bytes that an op use can move: inputs read once, results written once, nothing for views.

It is a lower bound for the memory system of any device: no cache misses, no temporaries, no second pass.
"""

from __future__ import annotations

from math import prod

from mpsprobe.run import OpUse, TensorMeta
from mpsprobe.trace.formulas.registry import ITEM_BYTES, base_name, numel, overload_name

#: Ops whose results share their input's memory. `_unsafe_view`, `unsafe_split` and the composites do so without
#: stating it in their schema.
VIEWS = frozenset(
    """
    _conj _fw_primal _indices _make_dual _neg_view _nested_get_values _nested_view_from_buffer
    _nested_view_from_jagged _reshape_alias _test_autograd_multiple_dispatch_view _values alias as_strided
    ccol_indices col_indices crow_indices detach diagonal expand indices lift lift_fresh permute row_indices
    select slice slice_inverse split split_with_sizes squeeze t transpose unbind unfold unsqueeze values
    view view_as_complex view_as_real _unsafe_view unsafe_split unsafe_split_with_sizes unsafe_chunk chunk
    narrow movedim swapaxes swapdims real imag view_as expand_as unflatten flatten_view numpy_T resolve_conj
    resolve_neg _sparse_broadcast_to
    """.split()  # noqa: SIM905 (a list literal has a line a name)
)

#: Ops that read and write nothing: sizes and marks, memory that is only allocated, assertions about metadata.
STILL = frozenset(
    """
    empty empty_like empty_strided empty_permuted new_empty new_empty_strided _efficientzerotensor resize
    resize_as set _resize_output is_same_size is_set_to is_pinned is_coalesced _is_coalesced dense_dim
    sparse_dim _dimI _dimV _nnz qscheme sym_size sym_stride sym_numel sym_storage_offset sym_is_contiguous
    size stride numel dim device record_stream _has_same_storage_numel _has_compatible_shallow_copy_type
    _assert_tensor_metadata _assert_scalar sym_constrain_range sym_constrain_range_for_size _coalesced
    requires_grad_ _version
    """.split()  # noqa: SIM905 (a list literal has a line a name)
)

#: In-place ops that ignore the old value.
_OVERWRITES = frozenset(
    """
    copy fill zero uniform normal random bernoulli exponential geometric cauchy log_normal resize_as
    _foreach_zero
    """.split()  # noqa: SIM905 (a list literal has a line a name)
)

#: Ops that read only as many elements of their first tensor as the result has.
_LOOKS_UP = {"embedding", "index", "index_select", "gather", "take", "_unsafe_index", "masked_select"}

#: Ops that write as many elements as their source has; out of place they copy the rest too. True: adds to the old
#: values.
_STORES = {
    **dict.fromkeys(("index_put", "_index_put_impl", "_unsafe_index_put", "index_copy", "index_fill"), False),
    **dict.fromkeys(("scatter", "masked_scatter", "put"), False),
    **dict.fromkeys(("scatter_add", "scatter_reduce", "index_add", "index_reduce"), True),
}


def item_bytes(tensor: TensorMeta) -> int | None:
    """Return the bytes of one element; None for an unknown dtype."""
    return ITEM_BYTES.get(tensor.dtype)


def is_strided(tensor: TensorMeta) -> bool:
    """Return whether a recorded tensor has a stride for each dimension, which sparse and nested ones do not."""
    return len(tensor.strides) == len(tensor.shape)


def stored_elements(tensor: TensorMeta) -> int:
    """Return the number of elements in memory, which dimensions of stride 0 repeat and overlapping windows share."""
    if not numel(tensor):
        return 0
    pairs = list(zip(tensor.shape, tensor.strides, strict=True))
    span = 1 + sum((size - 1) * abs(stride) for size, stride in pairs)
    return min(span, prod(size for size, stride in pairs if stride))


def bytes_moved(use: OpUse) -> int | None:
    """Return the least number of bytes of one call; None for an unknown dtype, or a sparse or nested tensor."""
    name = base_name(use.op)
    if name in VIEWS or name in STILL:
        return 0
    tensors = (*use.inputs, *use.outputs)
    if any(item_bytes(tensor) is None or not is_strided(tensor) for tensor in tensors):
        return None
    if name == "_local_scalar_dense":
        return _bytes(use.inputs)  # a tensor of one element; the number leaves the device
    if name in _LOOKS_UP:
        return _look_up(use)
    if name in _STORES:
        return _store(use, name)
    inputs, outputs = use.inputs, use.outputs
    if overload_name(use.op).endswith("out"):  # the last arguments receive the results, in schema order
        inputs = inputs[: len(inputs) - len(outputs)]
    elif _in_place(use):
        outputs = outputs or _first_argument(use)
        if name in _OVERWRITES:
            inputs = inputs[len(outputs) :]
    return _bytes(inputs) + _bytes(outputs)


def _bytes(tensors: list[TensorMeta]) -> int:
    return sum(stored_elements(tensor) * ITEM_BYTES[tensor.dtype] for tensor in tensors)


def _in_place(use: OpUse) -> bool:
    return use.op.split(".")[0].endswith("_") and not use.op.split(".")[0].endswith("__")


def _first_argument(use: OpUse) -> list[TensorMeta]:
    """Return the tensors of `self`: one, or a list (`_foreach_add_`)."""
    listed = use.scalars.get("self")
    return use.inputs[: len(listed) if isinstance(listed, list) else 1]


def _look_up(use: OpUse) -> int:
    table, *indices = use.inputs
    results = _bytes(use.outputs)
    return min(_bytes([table]), results) + _bytes(indices) + results


def _store(use: OpUse, name: str) -> int:
    target, *others = use.inputs
    item = ITEM_BYTES[target.dtype]
    source = max((numel(tensor) for tensor in others if tensor.dtype == target.dtype), default=0)
    indices = max((numel(tensor) for tensor in others), default=0)
    # A source of one element is broadcast over the indices (`x[mask] = 0`).
    written = min(max(source, indices if source <= 1 else 0), numel(target)) * item
    adds = _STORES[name] or bool(use.scalars.get("accumulate"))
    if _in_place(use):
        return _bytes(others) + written * (2 if adds else 1)
    return _bytes(use.inputs) + _bytes(use.outputs)
