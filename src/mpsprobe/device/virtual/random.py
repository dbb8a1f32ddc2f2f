"""Random generators of the virtual device: the CPU's random stream under the name `mps`.

The C++ object behind a generator is the CPU's, so C++ cannot tell it from one: a CPU op given an `mps`
generator works here and raises on a Mac. The other direction is checked.
"""

from __future__ import annotations

from typing import Any

import torch

_MPS = torch.device("mps", 0)

#: Addresses of the C++ generators behind those of the virtual device: a generator passes through C++ on its
#: way to the kernel, and comes out as a new Python object.
_impls: set[int] = set()


class _AnyGenerator(type(torch._C.Generator)):  # type: ignore[misc]
    """Makes generators made by C++ instances of the class that stands in for `torch.Generator`."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, torch._C.Generator)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return torch._C.Generator in subclass.__mro__


class Generator(torch._C.Generator, metaclass=_AnyGenerator):
    """`torch.Generator`, which can also be on `mps`."""

    _virtual: torch.device

    def __new__(cls, device: Any = "cpu") -> Generator:
        wanted = torch.device(device)
        virtual = wanted.type == "mps"
        generator: Generator = super().__new__(cls, torch.device("cpu") if virtual else wanted)  # type: ignore[call-arg]
        generator._virtual = _MPS if virtual else wanted
        if virtual:
            _impls.add(_address(generator))
        return generator

    def __init__(self, device: Any = "cpu") -> None:
        pass

    def __del__(self) -> None:
        _impls.discard(_address(self))

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self._virtual


def is_device(generator: torch._C.Generator) -> bool:
    """Whether a generator, however it was wrapped, is one of the virtual device."""
    return _address(generator) in _impls


def _address(generator: torch._C.Generator) -> int:
    address: int = generator._cdata  # type: ignore[attr-defined]
    return address
