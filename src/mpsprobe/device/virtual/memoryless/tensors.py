"""Tensors without memory: they are in address space that is reserved and never backed.

A memoryless tensor is a plain `mps:0` tensor with shape, strides, dtype and a data pointer. Reading would yield
zeros, writing would fault; the kernel does neither. 108 billion parameters take no memory and no time.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from mpsprobe.device.virtual.cpp import relabel
from mpsprobe.errors import UnsupportedInstallError

#: The `DLDeviceType` of Metal, and `DLDataTypeCode` and bits of each dtype (dlpack.h).
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
#: The fields of a DLManagedTensor (dlpack.h) as 64-bit words: data, device, ndim and dtype, shape, strides, offset,
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
_from_capsule = torch._C._from_dlpack
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_MAP_FAILED = ctypes.c_void_p(-1).value


def _no_reserve() -> int:
    """Return `MAP_NORESERVE`, which Python's mmap does not know (sys/mman.h of macOS, asm-generic/mman.h of Linux)."""
    return 0x40 if sys.platform == "darwin" else 0x4000


class TensorTemplate:
    """A template for memoryless tensors of one shape, strides and dtype, in which only the address varies.

    A tensor reads the struct when it is made, and at its end looks in it for a deleter (there is none). The struct
    must therefore outlive every tensor, and templates are never freed: a model needs some thousand, of 400 bytes
    each.

    Attributes:
        shape: The shape of the tensor.
        strides: The strides of the tensor in elements.
        dtype: The dtype of the tensor.
        nbytes: The bytes of its storage.
        span: The address space that one tensor takes, in bytes.
        words: The words of the struct, the address first.
        struct: The address of the struct.
    """

    __slots__ = ("dtype", "nbytes", "shape", "span", "strides", "struct", "words")

    def __init__(self, shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> None:
        self.shape, self.strides, self.dtype = shape, strides, dtype
        rank = len(shape)
        code, bits = _CODES[dtype]
        extent = 1
        for size, stride in zip(shape, strides, strict=True):
            if size == 0:
                extent = 0
                break
            extent += (size - 1) * stride
        self.nbytes = extent * bits // 8
        self.span = (self.nbytes + 2 * _ALIGNMENT - 1) // _ALIGNMENT * _ALIGNMENT
        self.words = (ctypes.c_int64 * (_WORDS + 2 * rank))()
        self.struct = ctypes.addressof(self.words)
        sizes = self.struct + 8 * _WORDS
        form = rank | code << 32 | bits << 40 | 1 << 48
        self.words[:] = [0, _METAL, form, sizes, sizes + 8 * rank, 0, 0, 0, *shape, *strides]


class MemorylessTensors:
    """A reserved range of addresses, from which memoryless tensors are made.

    Args:
        size: The bytes to reserve, a power of two; halved down to 64 GiB until the system grants them.

    Attributes:
        start: The first address.
        end: The address after the last.

    Raises:
        UnsupportedInstallError: The system does not grant 64 GiB of address space.
    """

    def __init__(self, size: int = 1 << 44) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _no_reserve()
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
        self.start: int = start
        self.end = self.start + size
        self._next = self.start
        self._templates: dict[tuple[tuple[int, ...], tuple[int, ...], torch.dtype], TensorTemplate] = {}

    def has(self, tensor: Tensor) -> bool:
        """Return whether a tensor is memoryless: its data pointer is in the reserved range."""
        address: int = tensor.data_ptr()
        inside: bool = self.start <= address < self.end
        return inside

    def template(self, shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype) -> TensorTemplate:
        """Return the template of memoryless tensors with this shape, these strides (in elements) and this dtype."""
        key = (tuple(shape), tuple(strides), dtype)
        template = self._templates.get(key)
        if template is None:
            template = self._templates[key] = TensorTemplate(*key)
        return template

    def cast(self, template: TensorTemplate) -> Tensor:
        """Make a memoryless tensor on `mps:0` from a template."""
        data = self._next
        if data + template.span > self.end:
            data = self.start  # addresses repeat, which is harmless because there are no values
        self._next = data + template.span
        if relabel.LEGACY:
            return relabel.at_address(data, template.shape, template.strides, template.dtype, mps=True)
        template.words[0] = data
        return _from_capsule(_new_capsule(template.struct, _NAME, None))

    def new(self, shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Make a memoryless tensor on `mps:0`; the strides are in elements."""
        return self.cast(self.template(shape, strides, dtype))


@functools.lru_cache(maxsize=1)
def memoryless_tensors() -> MemorylessTensors:
    """Return this process's address range, which is never freed, because tensors may outlive a session."""
    return MemorylessTensors()
