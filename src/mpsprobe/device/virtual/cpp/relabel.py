"""Relabel tensors: a CPU or CUDA tensor that says `mps:0`, and back, and tensors over a bare address.

DLPack is the only public way to make a tensor over given memory on a given device. The capsule that `to_dlpack`
returns is a C struct, and only its device field has to be changed.

torch 2.6 to 2.8 refuse `kDLMetal` in `from_dlpack`. There the C ABI that AOTInductor's compiled code uses makes a
tensor from a pointer, sizes, strides, dtype and device; for `mps` it asks the MPS hooks which device the pointer is
on. `without_mps.py` answers that; a Mac's own hooks answer `mps:0` for any pointer (2.8's and 2.13's, as read in
the machine code of their wheels; 2.6's have no such function, so `support.require` refuses 2.6 and 2.7 on a Mac).
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mpsprobe.device.virtual.cpp import native

#: Values of `DLDeviceType` in dlpack.h, with the device's index, 0, in the upper half of the word.
METAL = 8
CPU = 1
_KINDS = {"cpu": CPU, "cuda": 2}

_NAME = b"dltensor"
_to_capsule = torch._C._to_dlpack
_from_capsule = torch._C._from_dlpack
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype = ctypes.c_void_p
_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_word = ctypes.c_int64.from_address

#: A capsule begins with the header of an object, and its pointer follows: reading it there takes half the time.
_HEADER = object.__basicsize__


def _layout_is_known() -> bool:
    capsule = _to_capsule(torch.empty(1, device="cpu"))
    return bool(_word(id(capsule) + _HEADER).value == _pointer(capsule, _NAME))


_AS_KNOWN = _layout_is_known()

#: torch's `from_dlpack` accepts Metal from 2.9 on.
LEGACY = native.installed_release() < (2, 9)


def host(tensor: Tensor, memory: str = "cpu") -> Tensor:
    """Return a tensor over the same memory that says `cpu` or `cuda`, on whose kernels it can then be computed.

    Shape, strides, dtype and the conj and neg bits stay.

    Args:
        tensor: A tensor on `mps`.
        memory: The device that holds the memory: `"cpu"`, or `"cuda"` (from torch 2.9 on).
    """
    return relabelled(tensor, _KINDS[memory])


def device(tensor: Tensor) -> Tensor:
    """Return the `mps:0` tensor over the memory of a CPU or CUDA tensor."""
    return relabelled(tensor, METAL)


def relabelled(tensor: Tensor, kind: int) -> Tensor:
    """Return a tensor over the memory of another that says another device. Every op calls it for each tensor.

    Args:
        tensor: The tensor whose memory, shape, strides, dtype and conj and neg bits the result has.
        kind: The device of the result as a `DLDeviceType`; before torch 2.9 `METAL`, or else the CPU.
    """
    # DLPack has no conjugate or negative bit: strip it (a view), relabel, set it again (a view)
    if tensor.is_neg():
        return relabelled(tensor._neg_view(), kind)._neg_view()
    if tensor.dtype.is_complex and tensor.is_conj():
        return relabelled(tensor.conj(), kind).conj()
    if LEGACY:
        return _relabel_by_abi(tensor, mps=kind == METAL)
    capsule = _to_capsule(tensor)
    _word((_word(id(capsule) + _HEADER).value if _AS_KNOWN else _pointer(capsule, _NAME)) + 8).value = kind
    return _from_capsule(capsule)


# ------------------------------------------------------------------------------------------------- torch 2.6 - 2.8

#: A data pointer for tensors without elements, because a null pointer is refused.
_NOWHERE = 64


def _library() -> str:
    """Return the file name of the shared library that exports AOTInductor's C ABI."""
    return "libtorch_cpu.dylib" if sys.platform == "darwin" else "libtorch_cpu.so"


@functools.lru_cache(maxsize=1)
def _abi() -> tuple[Any, Any]:
    make = native.library(_library()).aoti_torch_create_tensor_from_blob
    new_capsule = ctypes.pythonapi.PyCapsule_New
    new_capsule.restype = ctypes.py_object
    new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return make, new_capsule


@functools.cache
def _dtype_code(dtype: torch.dtype) -> int:
    name = str(dtype).removeprefix("torch.")
    code: int = getattr(native.library(_library()), f"aoti_torch_dtype_{name}")()
    return code


def at_address(
    address: int, shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype, *, mps: bool
) -> Tensor:
    """Make a tensor over memory that the caller keeps alive, through AOTInductor's C ABI.

    Args:
        address: The address of the first element; 0 is accepted for a tensor without elements.
        shape: The shape.
        strides: The strides in elements.
        dtype: The dtype.
        mps: Whether the tensor is on `mps:0`; otherwise it is on the CPU.
    """
    made, handle = _make(address, shape, strides, dtype, mps=mps)
    if _handle_stays():
        native.library(_library()).aoti_torch_delete_tensor_object(handle)
    return made


@functools.lru_cache(maxsize=1)
def _handle_stays() -> bool:
    """Return whether "stealing" a handle leaves a reference behind, as in 2.8, which would keep every tensor alive."""
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
        ctypes.c_int32(_dtype_code(dtype)),
        ctypes.c_int32(native.DEVICE_TYPE_MPS if mps else native.DEVICE_TYPE_CPU),
        ctypes.c_int32(0 if mps else -1),
        ctypes.byref(handle),
    )
    if failed:
        raise RuntimeError("aoti_torch_create_tensor_from_blob failed")
    steal: Any = torch._C._aoti.alloc_tensor_by_stealing_from_void_ptr
    return steal(new_capsule(handle.value, None, None)), handle


def _relabel_by_abi(source: Tensor, *, mps: bool) -> Tensor:
    made = at_address(source.data_ptr(), source.shape, source.stride(), source.dtype, mps=mps)
    # a storage's Python object lives as long as the storage, and keeps its attributes alive
    made.untyped_storage()._memory_of = source  # type: ignore[attr-defined]
    return made
