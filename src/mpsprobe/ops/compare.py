"""Compare results of an op with a reference: tolerances as in `torch.testing`, together with the noise floor."""

from __future__ import annotations

import math
from typing import Any

import torch

from mpsprobe.ops.protocol import ElementComparison

#: (rtol, atol) of `torch.testing.assert_close`, for elementwise ops.
_CLOSE: dict[torch.dtype, tuple[float, float]] = {
    torch.float16: (1e-3, 1e-5),
    torch.bfloat16: (1.6e-2, 1e-5),
    torch.float32: (1.3e-6, 1e-5),
    torch.float64: (1e-7, 1e-7),
    torch.complex64: (1.3e-6, 1e-5),
    torch.complex128: (1e-7, 1e-7),
}
#: The accepted error of sums relative to the result's scale, because terms cancel. PyTorch's tests of MPS allow as
#: much for products, norms and convolutions (test/test_mps.py, _compute_tolerances: 5e-2 for bfloat16, 1e-2 for
#: float16, 3e-5 for float32).
_SUMS: dict[torch.dtype, float] = {
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
    torch.float32: 3e-5,
    torch.float64: 1e-9,
    torch.complex64: 3e-5,
    torch.complex128: 1e-9,
}
#: float8 has two or three bits of mantissa.
_COARSE = (2.5e-1, 1e-3)


def tolerances(dtype: torch.dtype, scale: float, pointwise: bool) -> tuple[float, float]:
    """Return (rtol, atol) for results of a dtype; both are 0 for integers and booleans.

    Args:
        dtype: The dtype of the op's result.
        scale: The largest absolute value of the reference.
        pointwise: Whether each element depends on one element of each input. Otherwise terms are added up, and an
            error is judged relative to the scale of the whole result.
    """
    if not dtype.is_floating_point and not dtype.is_complex:
        return 0.0, 0.0
    rtol, atol = _CLOSE.get(dtype, _COARSE)
    return (rtol, atol) if pointwise else (rtol, max(atol, _SUMS.get(dtype, _COARSE[0]) * scale))


def compare(
    output: int, found: torch.Tensor, reference: torch.Tensor, noisy: torch.Tensor | None, *, pointwise: bool
) -> ElementComparison:
    """Compare one result with the reference.

    Args:
        output: The index of the result among the op's results.
        found: The result of the device, moved to the CPU.
        reference: The result of the CPU, in a wider dtype where there is one.
        noisy: The result of the CPU in the op's own dtype; None when the CPU has no kernel for it.
        pointwise: Whether the op is elementwise; see `tolerances`.
    """
    # The reference in the op's own dtype, in which a value beyond its range is correctly infinite.
    rounded = _wide(reference.to(found.dtype))
    wide, wanted = _wide(found), _wide(reference)
    number, found_number = torch.isfinite(rounded) & torch.isfinite(wanted), torch.isfinite(wide)
    lost = number & ~found_number
    usable = number & found_number
    difference = torch.where(usable, (wide - wanted).abs(), 0.0)
    magnitude = torch.where(number, wanted.abs(), 0.0)
    scale = float(magnitude.max()) if magnitude.numel() else 0.0
    rtol, atol = tolerances(found.dtype, scale, pointwise)
    same_oddity = (wide == rounded) | (torch.isnan(wide) & torch.isnan(rounded))
    off = (usable & (difference > atol + rtol * magnitude)) | (~number & ~same_oddity)
    noise = None
    if noisy is not None and noisy.shape == reference.shape:
        rough = _wide(noisy)
        apart = torch.where(number & torch.isfinite(rough), (rough - wanted).abs(), 0.0)
        noise = float(apart.max()) if apart.numel() else 0.0
    return ElementComparison(
        output=output,
        dtype=_name(found.dtype),
        reference=_name(reference.dtype),
        difference=float(difference.max()) if difference.numel() else 0.0,
        noise=noise,
        scale=scale,
        rtol=rtol,
        atol=atol,
        off=int(off.sum()),
        not_finite=int(lost.sum()),
        elements=found.numel(),
        worst=_worst(wide, rounded, difference, off | lost),
    )


def _worst(found: torch.Tensor, rounded: torch.Tensor, difference: torch.Tensor, off: torch.Tensor) -> str:
    """Return the index and both values of the worst element that is off, as text; `""` when none is off.

    NaN and infinity are worse than any difference.
    """
    if not bool(off.any()):
        return ""
    amount = torch.where(torch.isfinite(found), difference, math.inf)
    flat = int(torch.where(off, amount + 1.0, 0.0).argmax())
    at = (
        ", ".join(str(int(i)) for i in torch.unravel_index(torch.tensor(flat), found.shape))
        if found.dim()
        else ""
    )
    return f"[{at}]: {_number(found.reshape(-1)[flat])} instead of {_number(rounded.reshape(-1)[flat])}"


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    # Integers up to 2 ** 53 stay exact; float8 has no arithmetic.
    return tensor.to(torch.float64)


def _number(element: torch.Tensor) -> str:
    value: Any = element.item()
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two tensors have the same shape, dtype and values; a NaN equals a NaN, and 0 equals -0."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.is_floating_point() or one.is_complex():
        one, other = _wide(one), _wide(other)
        return bool(((one == other) | (one.isnan() & other.isnan())).all())
    return torch.equal(one, other)
