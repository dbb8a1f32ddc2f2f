"""Tensors without memory: they live in address space that is reserved and never backed.

A ghost is a plain `mps:0` tensor with shape, strides, dtype and a data pointer. Reading gives zeros, writing
would fault; the kernel never does either. 108 billion parameters take no memory and no time.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
from collections.abc import Sequence

import torch
from torch import Tensor

from mpsprobe.device.virtual import legacy, relabel
from mpsprobe.device.virtual.errors import UnsupportedInstallError

#: `DLDeviceType` of Metal, and `DLDataTypeCode` and bits of each dtype (dlpack.h).
_METAL = 8
_CODES: dict[torch.dtype, tuple[int, int]] = {
    torch.int8: (0, 8),
    torch.int16: (0, 16),
    torch.int32: (0, 32),
    torch.int64: (0, 64),
    torch.uint8: (1, 8),
    torch.uint16: (1, 16),
    torch.uint32: (1, 32),
    torch.uint64: (1, 64),
    torch.float16: (2, 16),
    torch.float32: (2, 32),
    torch.float64: (2, 64),
    torch.bfloat16: (4, 16),
    torch.complex32: (5, 32),
    torch.complex64: (5, 64),
    torch.complex128: (5, 128),
    torch.bool: (6, 8),
}
for _name, _code in {"e4m3fn": 10, "e4m3fnuz": 11, "e5m2": 12, "e5m2fnuz": 13, "e8m0fnu": 14}.items():
    if hasattr(torch, f"float8_{_name}"):
        _CODES[getattr(torch, f"float8_{_name}")] = (_code, 8)

_NAME = b"dltensor"
_ALIGNMENT = 64
#: A DLManagedTensor of dlpack.h as 64-bit words: data, device, ndim and dtype, shape, strides, offset,
#: context, deleter.
_WORDS = 8

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.malloc.restype = ctypes.c_void_p
_libc.malloc.argtypes = [ctypes.c_size_t]
_free = ctypes.cast(_libc.free, ctypes.c_void_p).value or 0
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_MAP_NORESERVE = 0x4000
_MAP_FAILED = ctypes.c_void_p(-1).value


class Ghosts:
    """A stretch of reserved address space and the tensors in it."""

    def __init__(self, size: int = 1 << 44) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        start = None
        while size >= 1 << 36:
            start = _libc.mmap(None, size, mmap.PROT_READ, flags, -1, 0)
            if start not in (None, _MAP_FAILED):
                break
            start, size = None, size >> 1
        if start is None:
            raise UnsupportedInstallError(
                "The system refused 64 GB of address space.", "A limit (`ulimit -v`) or a sandbox forbids it."
            )
        self._start: int = start
        self._end = self._start + size
        self._next = self._start

    def has(self, tensor: Tensor) -> bool:
        """Whether a tensor is a ghost."""
        address: int = tensor.data_ptr()
        inside: bool = self._start <= address < self._end
        return inside

    def new(self, shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A ghost on `mps:0`; strides in elements."""
        rank = len(shape)
        code, bits = _CODES[dtype]
        extent = 1
        for size, stride in zip(shape, strides, strict=True):
            if size == 0:
                extent = 0
                break
            extent += (size - 1) * stride
        nbytes = (extent * bits // 8 + 2 * _ALIGNMENT - 1) // _ALIGNMENT * _ALIGNMENT
        if self._next + nbytes > self._end:
            self._next = self._start  # addresses repeat; there are no values that could meet
        data, self._next = self._next, self._next + nbytes
        if relabel.LEGACY:
            return legacy.tensor(data, shape, strides, dtype, mps=True)
        # The struct must live as long as the tensor. The tensor calls its deleter with the struct's address
        # at its end, and that is just what free() takes.
        address = _libc.malloc(8 * (_WORDS + 2 * rank))
        words = (ctypes.c_int64 * (_WORDS + 2 * rank)).from_address(address)
        sizes = address + 8 * _WORDS
        words[:_WORDS] = [
            data,
            _METAL,
            rank | code << 32 | bits << 40 | 1 << 48,
            sizes,
            sizes + 8 * rank,
            0,
            0,
            _free,
        ]
        words[_WORDS : _WORDS + rank] = list(shape)
        words[_WORDS + rank :] = list(strides)
        return torch._C._from_dlpack(_new_capsule(address, _NAME, None))


@functools.lru_cache(maxsize=1)
def ghosts() -> Ghosts:
    """The stretch of this process. It is never given back: tensors may outlive a session, and it costs nothing."""
    return Ghosts()
