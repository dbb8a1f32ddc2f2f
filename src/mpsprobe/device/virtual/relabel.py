"""The same memory under another device: a CPU tensor that says `mps:0`, and back.

DLPack is the one public way to make a tensor over given memory on a given device. The capsule that
`to_dlpack` returns is a C struct; writing its device field is the whole trick. torch 2.6 - 2.8 refuse
`kDLMetal` in `from_dlpack`; there the C ABI of AOTInductor makes the tensor (`legacy.py`).
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

#: `DLDeviceType` of dlpack.h.
_CPU, _CUDA, _METAL = 1, 2, 8

_to_capsule = torch._C._to_dlpack
_from_capsule = torch._C._from_dlpack
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype = ctypes.c_void_p
_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_word = ctypes.c_int64.from_address


def host(tensor: Tensor) -> Tensor:
    """The CPU tensor over the memory of an `mps` tensor: same shape, strides, dtype, conj and neg bits."""
    if tensor.is_neg():
        return host(tensor._neg_view())._neg_view()
    if tensor.dtype.is_complex and tensor.is_conj():
        return host(tensor.conj()).conj()
    capsule = _to_capsule(tensor)
    _word(_pointer(capsule, b"dltensor") + 8).value = _CPU
    return _from_capsule(capsule)


def device(tensor: Tensor) -> Tensor:
    """The `mps:0` tensor over the memory of a CPU tensor."""
    if tensor.is_neg():
        return device(tensor._neg_view())._neg_view()
    if tensor.dtype.is_complex and tensor.is_conj():
        return device(tensor.conj()).conj()
    capsule = _to_capsule(tensor)
    _word(_pointer(capsule, b"dltensor") + 8).value = _METAL
    return _from_capsule(capsule)
