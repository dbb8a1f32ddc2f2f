"""An arm64 machine (Unicorn) with the library in its memory, which runs one function at a time.

The caller's handler answers every call that the function makes instead of running it, so that registration code can
be observed without macOS, a loader or a C++ runtime. Functions that the compiler split off (`_OUTLINED_FUNCTION_*`)
belong to their callers and do run.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import unicorn
from unicorn import arm64_const as arm

from op_support.macho import Image

#: The address of the library; its own addresses are small, so a pointer never looks like a number.
BASE = 0x1_0000_0000
HEAP = 0x6000_0000_0000
_HEAP_SIZE = 0x400_0000
_SCRATCH_SIZE = 0x1_0000  # start of the heap, for arguments of calls
_STACK = 0x7F00_0000_0000
_STACK_SIZE = 0x40_0000
_IMPORTS = 0x5000_0000_0000  # one address for each imported symbol; nothing is ever run there
_IMPORTS_SIZE = 0x80_0000
_RETURN = _IMPORTS + _IMPORTS_SIZE - 0x1000  # the link register of the outermost call
_PAGE = 0x4000
_COPY_LIMIT = 0x1_0000
_OUTLINED = "_OUTLINED_FUNCTION"

#: A function of a mangled name and registers x0 to x7 that returns the value of x0; None leaves x0 unchanged.
Handler = Callable[[str, Sequence[int]], int | None]


class Stop(Exception):  # noqa: N818 - not an error: a handler raises it to end the run
    """Raised by a handler of calls to end the emulated function early."""


class Machine:
    """The library mapped at `BASE`, with its pointers relocated, and no other code."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self._uc = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
        self._uc.ctl_set_cpu_model(arm.UC_CPU_ARM64_MAX)
        self._uc.reg_write(arm.UC_ARM64_REG_CPACR_EL1, 3 << 20)  # floating point and SIMD on
        self._uc.mem_map(HEAP, _HEAP_SIZE)
        self._uc.mem_map(_STACK, _STACK_SIZE)
        self._uc.mem_map(_IMPORTS, _IMPORTS_SIZE)
        self._import_address: dict[str, int] = {}
        self._names: dict[int, str] = {BASE + at: name for at, name in image.name_at.items()}
        self._map_segments(self._pointers())
        self._names.update({BASE + at: name for at, name in image.stubs.items()})
        self._names.update({address: name for name, address in self._import_address.items()})
        self._uc.hook_add(unicorn.UC_HOOK_BLOCK, self._on_block)
        self._free = HEAP + _SCRATCH_SIZE
        self._handler: Handler | None = None
        self._entry = 0
        self._stopped = False
        self._problem: BaseException | None = None

    def _pointers(self) -> dict[int, int]:
        binds, rebases = self.image.fixups
        pointers = {at: BASE + target for at, target in rebases.items()}
        for at, name in binds.items():
            own = self.image.address_of.get(name)
            if own is not None:
                pointers[at] = BASE + own
            else:
                slot = _IMPORTS + 16 * (len(self._import_address) + 1)
                pointers[at] = self._import_address.setdefault(name, slot)
        return pointers

    def _map_segments(self, pointers: dict[int, int]) -> None:
        ordered = sorted(pointers.items())
        for segment in self.image.segments:
            if segment.name == "__LINKEDIT":
                continue
            self._uc.mem_map(BASE + segment.address, (segment.size + _PAGE - 1) & ~(_PAGE - 1))
            content = bytearray(self.image.data[segment.offset : segment.offset + segment.file_size])
            for at, target in ordered:
                if segment.address <= at <= segment.address + segment.file_size - 8:
                    struct.pack_into("<Q", content, at - segment.address, target)
            self._uc.mem_write(BASE + segment.address, bytes(content))

    def call(
        self,
        address: int,
        arguments: Sequence[int] = (),
        handler: Handler | None = None,
        limit: int = 20_000_000,
    ) -> int | None:
        """Run the function at `address` of the image; return the value of x0, or None when it did not return.

        It may not return because a handler raised `Stop`, because it ran past `limit` instructions, or because it
        accessed memory that only the real C++ runtime would have set up.
        """
        self._handler = handler
        self._entry = BASE + address
        self._stopped = False
        self._problem = None
        top = _STACK + _STACK_SIZE - _COPY_LIMIT
        for register in range(29):
            self._uc.reg_write(arm.UC_ARM64_REG_X0 + register, 0)
        for register, value in enumerate(arguments):
            self._uc.reg_write(arm.UC_ARM64_REG_X0 + register, value)
        self._uc.reg_write(arm.UC_ARM64_REG_SP, top)
        self._uc.reg_write(arm.UC_ARM64_REG_X29, top)
        self._uc.reg_write(arm.UC_ARM64_REG_LR, _RETURN)
        try:
            self._uc.emu_start(self._entry, _RETURN, count=limit)
        except unicorn.UcError:
            return None
        if self._problem is not None:
            raise self._problem
        if self._stopped or self._uc.reg_read(arm.UC_ARM64_REG_PC) != _RETURN:
            return None
        return self.register(0)

    def register(self, number: int) -> int:
        """Return the value of register x`number`."""
        return int(self._uc.reg_read(arm.UC_ARM64_REG_X0 + number))

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes of memory from an address of the machine on."""
        return bytes(self._uc.mem_read(address, size))

    def write(self, address: int, data: bytes) -> None:
        """Write bytes to memory from an address of the machine on."""
        self._uc.mem_write(address, data)

    def c_string(self, address: int) -> str | None:
        """Return the zero-terminated string of up to 299 bytes at an address of the machine; None for none."""
        try:
            raw = self.read(address, 300)
        except unicorn.UcError:
            return None
        text, zero, _ = raw.partition(b"\0")
        return text.decode("ascii", "replace") if zero else None

    def in_text(self, address: int) -> bool:
        """Return whether an address of the machine points at code of the library."""
        return address - BASE in self.image.text

    def _on_block(self, _uc: unicorn.Uc, address: int, _size: int, _data: object) -> None:
        name = self._names.get(address)
        if name is None or address == self._entry or name.startswith(_OUTLINED):
            return
        registers = [self.register(number) for number in range(8)]
        try:
            value = self._answer(name, registers)
        except Stop:
            self._stopped = True
            self._uc.emu_stop()
            return
        except Exception as problem:  # unicorn would swallow it
            self._problem = problem
            self._uc.emu_stop()
            return
        if value is not None:
            self._uc.reg_write(arm.UC_ARM64_REG_X0, value & (2**64 - 1))
        self._uc.reg_write(arm.UC_ARM64_REG_PC, self._uc.reg_read(arm.UC_ARM64_REG_LR))

    def _answer(self, name: str, x: Sequence[int]) -> int | None:
        if name in {"__Znwm", "__Znam", "_malloc"}:
            return self._allocate(x[0])
        if name == "_calloc":
            return self._allocate(x[0] * x[1])
        if name in {"_memcpy", "_memmove"} and x[2] < _COPY_LIMIT:
            self.write(x[0], self.read(x[1], x[2]))
            return x[0]
        if name == "_bzero":
            self.write(x[0], bytes(min(x[1], _COPY_LIMIT)))
            return x[0]
        if name == "_memset":
            self.write(x[0], bytes([x[1] & 255]) * min(x[2], _COPY_LIMIT))
            return x[0]
        if name == "_strlen":
            return len(self.c_string(x[0]) or "")
        if name == "_getenv":
            return 0
        return self._handler(name, x) if self._handler else None

    def _allocate(self, size: int) -> int:
        if self._free + size > HEAP + _HEAP_SIZE - _COPY_LIMIT:
            self._free = HEAP + _SCRATCH_SIZE  # a finished registration function no longer needs its memory
        block = self._free
        self._free += (size + 31) & ~15
        self.write(block, bytes((min(size, _COPY_LIMIT) + 15) & ~15))
        return block
