"""What a forecast on MPS rests on: kernels with a speed of their own, and kinds of ops that nobody has measured.

A kernel is taken to reach a share of a peak, published or fitted (`speed.toml`). Some kinds of ops fit none of those
measurements. They are taken to be as fast as their nearest relatives, and when somebody measured such a kind, it was
often not so: `speed.surprise` is the factor that four in five stayed within. A forecast's range is wider by what these
ops would take then, and the forecast names them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mpsprobe.forecast.kinds import kind_of
from mpsprobe.run import OpUse, OpVerdict, TensorMeta
from mpsprobe.trace.formulas.registry import OpFamily, base_name, family_of
from mpsprobe.trace.formulas.traffic import item_bytes, stored_elements

#: Up to so many input channels the sums of a convolution are short: pictures and masks.
_FEW_CHANNELS = 4
#: Kernels with a share of their own in `speed.toml`, by base name.
_OWN_SHARE = {
    **dict.fromkeys(("index", "_unsafe_index", "index_put", "_index_put_impl", "_unsafe_index_put"), "index"),
    **dict.fromkeys(("sort", "argsort", "msort", "topk", "kthvalue", "median", "nanmedian"), "sort"),
    **dict.fromkeys(("bmm", "baddbmm"), "bmm"),
    **dict.fromkeys(("_fft_r2c", "_fft_c2r"), "fft"),
    "unfold_backward": "overlap",
}
#: Kinds of ops that nobody has measured on MPS, by how the base name begins.
_UNMEASURED = {
    "_fft_": "Fourier transforms",
    "cumsum": "running sums",
    "cumprod": "running sums",
    "cummax": "running sums",
    "cummin": "running sums",
    "logcumsumexp": "running sums",
    "_lstm": "recurrent layers",
    "lstm_mps": "recurrent layers",
    "grid_sampler": "resampling",
    "upsample_": "resampling",
    "_upsample_": "resampling",
    "max_pool": "pooling",
    "_mps_max_pool": "pooling",
    "mps_max_pool": "pooling",
    "avg_pool": "pooling",
    "adaptive_": "pooling",
    "_adaptive_": "pooling",
    "scatter": "scattered sums",
    "index_add": "scattered sums",
    "_weight_int": "products with packed weights",
    "_int_mm": "products with packed weights",
}
#: The taps from which on a kernel is wide.
_WIDE = 16
#: Longer signals than this went through no 1-D convolution that was timed: those had 256 and 1000 samples.
_LONG = 4096
#: Smaller tensors go to the CPU and back for control: logits, lengths, tokens.
_DATA = 1 << 20
#: Batched products with a side of at most this, such as heads of attention in small windows, were not timed.
_NARROW = 32


def share_of(use: OpUse) -> str:
    """Return the name of the share in `speed.toml` that a use has beside that of its kind; empty for most."""
    if kind_of(use.op) == "conv":
        weight = use.inputs[1].shape if len(use.inputs) > 1 else ()
        if len(weight) == 5:
            return "conv-3d"
        # a few groups of a wide kernel, such as the positions of HuBERT; each channel alone has kernels of its own
        wide = math.prod(weight[2:]) >= _WIDE and weight[1:2] > (1,)
        if wide and (use.scalars.get("groups") or 1) > 1:
            return "conv-groups"
        return _flat_share(use)
    share = _OWN_SHARE.get(base_name(use.op), "")
    return "" if share == "fft" and not _is_binary(use) else share


def _is_binary(use: OpUse) -> bool:
    """Return whether a real Fourier transform is of a power of two along the last dimension, as those timed are."""
    length = max([tensor.shape[-1] for tensor in (*use.inputs, *use.outputs) if tensor.shape] or [0])
    return length & (length - 1) == 0


def _flat_share(use: OpUse) -> str:
    """Return the share of a forward 2-D convolution by its shapes; empty for a general one.

    `"conv-3x3"` is one of 3 x 3 and stride 1, which kernels transform to need fewer products. `"conv-few"` reads at
    most four channels, so that its sums are short and badly aligned: the first layer of a net on pictures.
    """
    if any(word in use.op for word in ("backward", "transpose")) or use.scalars.get("transposed"):
        return ""
    if len(use.inputs) < 2 or not use.outputs:
        return ""
    x, weight, y = use.inputs[0].shape, use.inputs[1].shape, use.outputs[0].shape
    if any(len(shape) != 4 for shape in (x, weight, y)):
        return ""
    if x[1] <= _FEW_CHANNELS and weight[2] > 1:
        return "conv-few"
    whole = weight[1] == x[1] and y[2] >= x[2] - 2 and y[3] >= x[3] - 2
    return "conv-3x3" if whole and tuple(weight[2:]) == (3, 3) else ""


def unmeasured_kind(use: OpUse) -> str:
    """Return the kind of a use whose speed on MPS nobody has measured, in words for readers; empty for others."""
    name = base_name(use.op)
    if use.verdict is OpVerdict.FALLBACK:
        return "ops on the CPU"
    if kind_of(use.op) == "conv":
        return _convolution(use, name)
    if name in ("bmm", "baddbmm"):
        *_, left, right = use.inputs
        sides = (*left.shape[-2:], right.shape[-1])
        return "batched products of narrow matrices" if 1 < min(sides) <= _NARROW else ""
    if share_of(use):
        return ""
    decomposes = "decompositions" if family_of(name) is OpFamily.LINALG else ""
    return next((kind for start, kind in _UNMEASURED.items() if name.startswith(start)), decomposes)


def _convolution(use: OpUse, name: str) -> str:
    transposed = "transpose" in name or bool(use.scalars.get("transposed"))
    if (use.scalars.get("groups") or 1) > 1:
        return "convolutions in groups"
    if max(use.scalars.get("dilation") or [1]) > 1:
        return "dilated convolutions"
    if not transposed and _is_long(use):
        return "convolutions of long signals"
    cubic = any(len(tensor.shape) == 5 for tensor in use.inputs)
    return "gradients of 3-D convolutions" if cubic and (transposed or "backward" in name) else ""


def _is_long(use: OpUse) -> bool:
    """Return whether a 1-D convolution, which MPS computes as a 2-D one of height 1, reads a long signal."""
    x, weight = use.inputs[0].shape, use.inputs[1].shape if len(use.inputs) > 1 else ()
    flat = len(x) == len(weight) == 3 or (len(x) == len(weight) == 4 and x[2] == weight[2] == 1)
    return flat and x[-1] > _LONG


def has_detour(uses: Sequence[OpUse], order: Sequence[int]) -> bool:
    """Return whether a run copies a large tensor to the CPU and, later, a large one back.

    What its code does in between on tensors of the CPU is not recorded, so its time is not known. HTDemucs does this
    for its Fourier transforms where the device is MPS.

    Args:
        uses: The distinct uses of ops.
        order: The position in `uses` of each call in turn; negative entries are marks.
    """
    away = [_copies(use, to_cpu=True) for use in uses]
    back = [_copies(use, to_cpu=False) for use in uses]
    left = False
    for at in order:
        if at >= 0 and away[at]:
            left = True
        elif at >= 0 and left and back[at]:
            return True
    return False


def _copies(use: OpUse, to_cpu: bool) -> bool:
    """Return whether a use writes a large tensor from the GPU to the CPU, or from the CPU to the GPU."""
    result = next(iter(use.outputs), None)
    if result is None or not _is_data(result) or result.device.startswith("cpu") is not to_cpu:
        return False
    return any(_is_data(tensor) and tensor.device.startswith("cpu") is not to_cpu for tensor in use.inputs)


def _is_data(tensor: TensorMeta) -> bool:
    return stored_elements(tensor) * (item_bytes(tensor) or 0) >= _DATA
