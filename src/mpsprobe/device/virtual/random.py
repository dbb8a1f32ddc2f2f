"""Random generators of the virtual device: the host's random stream, from a generator that says `mps:0`.

The C++ object behind a generator is the CPU's (or CUDA's) with another device written into it, so C++ itself
refuses it where a Mac does, such as in a CPU op. While a kernel of the virtual device computes with it, it says
`cpu` again.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator
from typing import Any

import torch

from mpsprobe.device.virtual.cpp import native
from mpsprobe.errors import UnsupportedInstallError

#: `c10::Device` is two signed bytes, type and index. Its place in `c10::GeneratorImpl` follows the vtable, two counts
#: and a mutex (c10/core/GeneratorImpl.h); it is searched for, because the header gives no offsets.
_CPU, _CUDA, _MPS = (native.DEVICE_TYPE_CPU, -1), (native.DEVICE_TYPE_CUDA, 0), (native.DEVICE_TYPE_MPS, 0)
_LOOKED_AT = 96


#: The number of ops that drew from a generator since its seed was set (MPS's Philox offset), by its address,
#: because the dispatcher may pass another Python object for the same generator.
_used: dict[int, int] = {}


class _AnyGenerator(type(torch._C.Generator)):  # type: ignore[misc]
    """The metaclass that makes generators from C++ count as instances of the replacement of `torch.Generator`."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, torch._C.Generator)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return torch._C.Generator in subclass.__mro__


class Generator(torch._C.Generator, metaclass=_AnyGenerator):
    """A `torch.Generator` that can also be on `mps`.

    Attributes:
        memory: The device whose memory and random numbers the virtual one uses.
    """

    memory = "cpu"

    def __new__(cls, device: Any = "cpu") -> Generator:
        wanted = torch.device(device)
        if wanted.type != "mps":
            return super().__new__(cls, wanted)  # type: ignore[call-arg]
        generator: Generator = super().__new__(cls, torch.device(cls.memory))  # type: ignore[call-arg]
        _set_device(generator, *_MPS)
        return generator

    def __init__(self, device: Any = "cpu") -> None:
        _used[_address(self)] = 0

    def manual_seed(self, seed: int) -> Generator:
        """Set the seed, which starts the stream of random numbers and the offset again, and return the generator."""
        _used[_address(self)] = 0
        super().manual_seed(seed)
        return self

    def get_offset(self) -> int:
        """Return the number of ops that drew from it since its seed was set, as MPSGeneratorImpl counts them.

        On another device it is that device's own offset.
        """
        return _used.get(_address(self), 0) if is_device(self) else super().get_offset()

    def set_offset(self, offset: int) -> Generator:
        """Set the offset, and return the generator; on `mps` the host's stream of random numbers does not move."""
        if is_device(self):
            _used[_address(self)] = offset
        else:
            super().set_offset(offset)
        return self


class CudaGenerator(Generator):
    """A `Generator` with the random numbers of CUDA, for a virtual device whose values are in CUDA memory."""

    memory = "cuda"


def is_device(generator: torch._C.Generator) -> bool:
    """Return whether a generator is on the virtual device."""
    return generator.device.type == "mps"


@contextlib.contextmanager
def on_host(generator: torch._C.Generator, memory: str) -> Iterator[None]:
    """Let the kernels of `memory` ("cpu", "cuda") use a generator of the virtual device while the context lasts.

    It counts as one op that drew from the generator. A generator of another device is left as it is.
    """
    if not is_device(generator):
        yield
        return
    _set_device(generator, *(_CUDA if memory == "cuda" else _CPU))
    _used[_address(generator)] = _used.get(_address(generator), 0) + 1
    try:
        yield
    finally:
        _set_device(generator, *_MPS)


def _set_device(generator: torch._C.Generator, kind: int, index: int) -> None:
    field = (ctypes.c_int8 * 2).from_address(_address(generator) + _offset())
    field[0], field[1] = kind, index


@functools.lru_cache(maxsize=1)
def _offset() -> int:
    """Return the byte offset of the device field in a generator's C++ object."""
    probe = torch._C.Generator(torch.device("cpu"))
    for offset in range(2 * ctypes.sizeof(ctypes.c_void_p), _LOOKED_AT):
        field = (ctypes.c_int8 * 2).from_address(_address(probe) + offset)
        if (field[0], field[1]) != _CPU:
            continue
        field[0], field[1] = _MPS
        found = probe.device.type == "mps"
        field[0], field[1] = _CPU
        if found:
            return offset
    raise UnsupportedInstallError("c10's generator has another form than the virtual device knows.")


def _address(generator: torch._C.Generator) -> int:
    address: int = generator._cdata  # type: ignore[attr-defined]
    return address
