"""The same memory under another device: a CPU or CUDA tensor that says `mps:0`, and back.

DLPack is the one public way to make a tensor over given memory on a given device. The capsule that
`to_dlpack` returns is a C struct; writing its device field is the whole trick. torch 2.6 - 2.8 refuse
`kDLMetal` in `from_dlpack`; there the C ABI of AOTInductor makes the tensor (`legacy.py`).
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from mpsprobe.device.virtual import support
from mpsprobe.device.virtual.cpp import legacy

#: `DLDeviceType` of dlpack.h. With the device's index, 0, in the upper half of the word.
_METAL = 8
_KINDS = {"cpu": 1, "cuda": 2}

_NAME = b"dltensor"
_to_capsule = torch._C._to_dlpack
_from_capsule = torch._C._from_dlpack
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype = ctypes.c_void_p
_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_word = ctypes.c_int64.from_address

#: torch's `from_dlpack` knows Metal since 2.9.
LEGACY = support.installed_release() < (2, 9)


def host(tensor: Tensor, memory: str = "cpu") -> Tensor:
    """The tensor of the device whose memory it is, for an `mps` tensor: same shape, strides, dtype, conj and neg bits.

    Args:
        tensor: on `mps`.
        memory: `"cpu"`, or `"cuda"` (from torch 2.9 on).
    """
    return _relabel(tensor, _KINDS[memory])


def device(tensor: Tensor) -> Tensor:
    """The `mps:0` tensor over the memory of a CPU or CUDA tensor."""
    return _relabel(tensor, _METAL)


def _relabel(tensor: Tensor, kind: int) -> Tensor:
    # DLPack knows no conjugate or negative bit: strip it (a view), relabel, set it again (a view)
    if tensor.is_neg():
        return _relabel(tensor._neg_view(), kind)._neg_view()
    if tensor.dtype.is_complex and tensor.is_conj():
        return _relabel(tensor.conj(), kind).conj()
    if LEGACY:
        return legacy.relabel(tensor, mps=kind == _METAL)
    capsule = _to_capsule(tensor)
    _word(_pointer(capsule, _NAME) + 8).value = kind
    return _from_capsule(capsule)
