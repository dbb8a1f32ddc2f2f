"""Read what the library registers with PyTorch's dispatcher, by running its own registration functions.

`TORCH_LIBRARY_IMPL(aten, MPS, m) { m.impl("abs", f); ... }` compiles to a function
`TORCH_LIBRARY_IMPL_init_aten_MPS_1(torch::Library&)` that makes one `CppFunction` for each kernel and passes
it to `Library::_impl`. Both are watched: a `CppFunction` holds the kernel's boxed and unboxed entry points.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence

from op_support.machine import BASE, HEAP, Machine
from op_support.registration import FALLBACK, Registration, wanted

_INIT = re.compile(r"TORCH_LIBRARY_IMPL_init_(?P<ns>.+)_(?P<key>[A-Za-z0-9]+)_\d+E?RN5torch7LibraryE$")
_IMPL = re.compile(r"^__ZN[OKR]*5torch7Library5_impl")
_CPP_FUNCTION = 0x20  # bytes: functor, boxed, unboxed and symbolic unboxed entry point


def read(machine: Machine) -> list[Registration]:
    """Run every registration function of the keys that matter, and return the registrations.

    Raises:
        RuntimeError: One did not run to its end, so the result would be incomplete.
    """
    found: list[Registration] = []
    image = machine.image
    for name, address in zip(image.names, image.addresses, strict=True):
        match = _INIT.search(name)
        if not match or not wanted(match["key"]):
            continue
        watcher = _Watcher(machine, match["ns"], match["key"])
        if machine.call(address, (HEAP,), watcher.answer) is None:
            raise RuntimeError(f"{name} did not run to its end after {len(watcher.found)} registrations.")
        found += watcher.found
    return found


class _Watcher:
    """Answer the calls of one registration function, and record what it registers."""

    def __init__(self, machine: Machine, namespace: str, key: str) -> None:
        self.found: list[Registration] = []
        self._machine = machine
        self._namespace = namespace
        self._key = key
        #: the constructor's name and its pointer argument, by the address of the CppFunction under construction
        self._made: dict[int, tuple[str, int]] = {}

    def answer(self, name: str, x: Sequence[int]) -> int | None:
        machine = self._machine
        if "5torch11CppFunctionC" in name:
            if "EN3c1014KernelFunctionE" in name:
                machine.write(x[0], machine.read(x[1], _CPP_FUNCTION))
                self._made.pop(x[0], None)
            else:
                self._made[x[0]] = (name, x[1])
        elif "CppFunction19makeFromBoxedKernel" in name:
            machine.write(machine.register(8), machine.read(x[0], 0x10) + bytes(0x10))
        elif _IMPL.match(name):
            self._note(x[1], self._made.pop(x[2], None), self._entry_points(x[2]))
            machine.write(x[2], bytes(_CPP_FUNCTION))
        elif "5torch7Library4implI" in name:
            self._note(x[1], (name, x[2]), [])
        elif "5torch7Library" in name and "fallback" in name:
            self.found.append(Registration(self._key, FALLBACK, name, None))
        return x[0]

    def _entry_points(self, function: int) -> list[int]:
        words = struct.unpack("<4Q", self._machine.read(function, _CPP_FUNCTION))
        return [word - BASE for word in words if self._machine.in_text(word)]

    def _note(self, op: int, made: tuple[str, int] | None, entry_points: list[int]) -> None:
        machine = self._machine
        name = machine.c_string(op) or ""
        constructor = ""
        if made is not None:  # its constructor was answered, not run: the memory holds an older object
            constructor, pointer = made
            entry_points = [pointer - BASE] if machine.in_text(pointer) else []
        symbols = [symbol[0] for at in entry_points if (symbol := machine.image.symbol_before(at))]
        self.found.append(
            Registration(
                key=self._key,
                op=name if "::" in name else f"{self._namespace}::{name}",
                kernel=symbols[0] if symbols else constructor,
                # boxed, then unboxed: the unboxed one leads to the kernel without the interpreter's stack
                address=entry_points[min(1, len(entry_points) - 1)] if entry_points else None,
            )
        )
