"""PyTorch's own messages, by release. Each function names the source of its message in PyTorch.

The messages about memory are in `unified_memory`, those of single kernels beside their checks in `contract` and
`limits`.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from mpsprobe.device.virtual.cpp import relabel
from mpsprobe.device.virtual.observer import FindingGrade
from mpsprobe.device.virtual.schema import Op
from mpsprobe.knowledge import dtypes

#: MPS_ERROR_DOUBLE_NOT_SUPPORTED, aten/src/ATen/mps/EmptyTensor.cpp: allocating.
FLOAT64 = (
    "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. "
    "Please use float32 instead."
)
#: getMPSDataType, aten/src/ATen/native/mps/OperationUtils.mm: computing.
FLOAT64_IN_KERNEL = (
    "Cannot convert a float64 Tensor to MPS as the MPS framework doesn't support float64. "
    "Please use float32 instead."
)
#: aten/src/ATen/native/mps/OperationUtils.mm: a kernel got a tensor that is not on the device.
PLACEHOLDER = "Placeholder storage has not been allocated on MPS device!"


def missing_op(op: str, torch_release: str, commit: str) -> str:
    """Return the message of mps_error_fallback, aten/src/ATen/mps/MPSFallback.mm."""
    minor = int(torch_release.split(".")[1])
    wish = (
        "considered for addition please comment on https://github.com/pytorch/pytorch/issues/141287 and "
        f"mention use-case, that resulted in missing op as well as commit hash {commit}"
        if minor >= 6
        else "added in priority during the prototype phase of this feature, please comment on "
        "https://github.com/pytorch/pytorch/issues/77764"
    )
    return (
        f"The operator '{op}' is not currently implemented for the MPS device. If you want this op to be "
        f"{wish}. As a temporary fix, you can set the environment variable `PYTORCH_ENABLE_MPS_FALLBACK=1` "
        "to use the CPU as a fallback for this op. WARNING: this will be slower than running natively on MPS."
    )


def fallback(op: str) -> str:
    """Return the warning of mps_fallback, aten/src/ATen/mps/MPSFallback.mm."""
    return (
        f"The operator '{op}' is not currently supported on the MPS backend and will fall back to run on the "
        "CPU. This may have performance implications."
    )


def scalar_type(dtype: torch.dtype) -> str:
    """Return a dtype's name in C++ messages: `"ComplexDouble"`, `"Float8_e4m3fn"`."""
    return dtypes.scalar_type(dtype_name(dtype))


def dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype's name without the `torch.` prefix: `"float16"`."""
    return str(dtype).removeprefix("torch.")


def refused_by_kernel(dtype: torch.dtype) -> str:
    """Return the message of getMPSDataType and getMPSScalarType, aten/src/ATen/native/mps/OperationUtils.mm."""
    if dtype is torch.float64:
        return FLOAT64_IN_KERNEL
    name = scalar_type(dtype)
    return f"Trying to convert {name} to the MPS backend but it does not have support for that dtype."


def refused_dtypes(torch_release: str, macos: str) -> dict[torch.dtype, str]:
    """Return the dtypes that no op of the release can produce on MPS, each with its error message."""
    accepted = dtypes.accepted(torch_release, macos)
    refused = {}
    for dtype in _all_dtypes():
        name = dtype_name(dtype)
        if name in accepted:
            continue
        restriction = dtypes.check("aten::add.Tensor", [name], torch_release, macos)
        # a separate rule: float64, or a dtype that a newer macOS would have
        refused[dtype] = restriction.message if restriction and restriction.rule else refused_by_kernel(dtype)
    return refused


def _all_dtypes() -> list[torch.dtype]:
    found = {value for value in vars(torch).values() if isinstance(value, torch.dtype)}
    return sorted((one for one in found if not re.search(r"quint|qint|bits", str(one))), key=str)


def mixed_devices(
    op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], version: tuple[int, int]
) -> tuple[str, FindingGrade]:
    """Return an op's error for a CPU tensor among device tensors, and how certain it is.

    TensorIterator checks devices before any kernel runs, in PyTorch's common code, and its message is the same on
    every machine. So the CPU's implementation of the op is called with tensors of one element: if it uses
    TensorIterator, it raises that message. Kernels without that check find no Metal buffer behind the CPU tensor.
    """
    if op.name == "linear" and version >= (2, 5):
        names = ("input", "weight", "bias")
        for name, value in zip(names, args, strict=False):
            if isinstance(value, Tensor) and not value.is_mps:  # _mps_linear, operations/Linear.mm
                return (
                    f"Tensor for argument {name} is on {value.device} but expected on mps",
                    FindingGrade.LIKELY,
                )
    if op.name in ("dot", "vdot"):  # dot_check, operations/Blas.mm (2.6)
        found = ", ".join(str(one.device) for one in args if isinstance(one, Tensor))
        text = f"Expected all tensors to be on the same device. Found: {found}"
        return text, FindingGrade.LIKELY
    try:
        op.overload.redispatch(
            _CPU_KEYS,
            *[_one_element(one) for one in args],
            **{name: _one_element(one) for name, one in kwargs.items()},
        )
    except Exception as problem:  # only this message counts; anything else means that there is no such check
        text = str(problem)
        if text.startswith("Expected all tensors to be on the same device"):
            return text, FindingGrade.CERTAIN
    return PLACEHOLDER, FindingGrade.LIKELY


_CPU_KEYS = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)


def _one_element(value: Any) -> Any:
    """Copy an argument, with each tensor in it reduced to one element on the same device."""
    if isinstance(value, Tensor):
        small = torch.ones([1] * value.dim(), dtype=value.dtype, device="cpu")
        return relabel.device(small) if value.is_mps else small
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        return type(value)([_one_element(one) for one in value])
    return value
