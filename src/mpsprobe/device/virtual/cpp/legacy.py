"""Tensors over given memory for torch 2.6 - 2.8, whose `from_dlpack` refuses Metal.

The C ABI that AOTInductor's compiled code uses makes a tensor from a pointer, sizes, strides, dtype and device; for
`mps` it asks the MPS hooks which device the pointer is on (`hooks.py` answers).
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mpsprobe.device.virtual.cpp import native

#: A data pointer for tensors without elements: a null pointer is refused.
_NOWHERE = 64


@functools.lru_cache(maxsize=1)
def _abi() -> tuple[Any, Any]:
    make = native.library("libtorch_cpu.so").aoti_torch_create_tensor_from_blob
    new_capsule = ctypes.pythonapi.PyCapsule_New
    new_capsule.restype = ctypes.py_object
    new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return make, new_capsule


@functools.cache
def _code(dtype: torch.dtype) -> int:
    name = str(dtype).removeprefix("torch.")
    code: int = getattr(native.library("libtorch_cpu.so"), f"aoti_torch_dtype_{name}")()
    return code


def tensor(
    address: int, shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype, *, mps: bool
) -> Tensor:
    """A tensor over memory that somebody else keeps alive."""
    made, handle = _make(address, shape, strides, dtype, mps=mps)
    if _handle_stays():
        native.library("libtorch_cpu.so").aoti_torch_delete_tensor_object(handle)
    return made


@functools.lru_cache(maxsize=1)
def _handle_stays() -> bool:
    """Whether "stealing" a handle leaves a reference behind (2.8 does), which would keep every tensor for ever."""
    owner = torch.empty(1, device="cpu")
    made, _ = _make(owner.data_ptr(), (1,), (1,), owner.dtype, mps=False)
    reference = made.untyped_storage()._weak_ref()
    del made
    stays = not torch.UntypedStorage._expired(reference)
    torch.UntypedStorage._free_weak_ref(reference)
    return stays


def _make(
    address: int, shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype, *, mps: bool
) -> tuple[Tensor, ctypes.c_void_p]:
    make, new_capsule = _abi()
    rank = len(shape)
    array = ctypes.c_int64 * max(rank, 1)
    handle = ctypes.c_void_p()
    failed = make(
        ctypes.c_void_p(address or _NOWHERE),
        ctypes.c_int64(rank),
        array(*shape),
        array(*strides),
        ctypes.c_int64(0),
        ctypes.c_int32(_code(dtype)),
        ctypes.c_int32(native.DEVICE_TYPE_MPS if mps else native.DEVICE_TYPE_CPU),
        ctypes.c_int32(0 if mps else -1),
        ctypes.byref(handle),
    )
    if failed:
        raise RuntimeError("aoti_torch_create_tensor_from_blob failed")
    steal: Any = torch._C._aoti.alloc_tensor_by_stealing_from_void_ptr
    return steal(new_capsule(handle.value, None, None)), handle


def relabel(source: Tensor, *, mps: bool) -> Tensor:
    """A tensor over another's memory, which it keeps alive."""
    made = tensor(source.data_ptr(), source.shape, source.stride(), source.dtype, mps=mps)
    # a storage's Python object lives as long as the storage, and so does what it holds
    made.untyped_storage()._memory_of = source  # type: ignore[attr-defined]
    return made
