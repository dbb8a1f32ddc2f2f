"""The parts of a Mach-O arm64 library that this tool needs: sections, symbols, imports, fixups."""

from __future__ import annotations

import bisect
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import lief
import numpy as np

_MAGIC_64 = 0xFEEDFACF
_LC_SYMTAB, _LC_DYSYMTAB, _LC_SEGMENT_64 = 0x2, 0xB, 0x19
_NLIST = np.dtype([("name", "<u4"), ("type", "u1"), ("section", "u1"), ("desc", "<u2"), ("value", "<u8")])
_N_STAB, _N_TYPE, _N_SECT = 0xE0, 0x0E, 0x0E


@dataclass(frozen=True)
class Segment:
    """A mapped range of `size` bytes at `address`; the first `file_size` bytes are at `offset` in the file."""

    name: str
    address: int
    size: int
    offset: int
    file_size: int


@dataclass(frozen=True)
class Section:
    """A named part of a segment; `reserved1` and `reserved2` are the indirect-symbol index and stub size."""

    name: str
    segment: str
    address: int
    size: int
    offset: int
    reserved1: int
    reserved2: int

    def __contains__(self, address: int) -> bool:
        return self.address <= address < self.address + self.size


class Image:
    """An arm64 dynamic library (Mach-O), mapped at its preferred address 0.

    Raises:
        ValueError: The file is not a 64-bit Mach-O file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = path.read_bytes()
        magic, *_, commands, _, _, _ = struct.unpack_from("<8I", self.data)
        if magic != _MAGIC_64:
            raise ValueError(f"{path}: not a 64-bit Mach-O file (magic {magic:#x}).")
        self.segments: list[Segment] = []
        self.sections: list[Section] = []
        self._symbol_table = (0, 0, 0, 0)
        self._indirect_offset = 0
        self._read_commands(commands)
        self._read_symbols()

    def _read_commands(self, count: int) -> None:
        at = 32
        for _ in range(count):
            command, size = struct.unpack_from("<II", self.data, at)
            if command == _LC_SEGMENT_64:
                self._read_segment(at)
            elif command == _LC_SYMTAB:
                self._symbol_table = struct.unpack_from("<IIII", self.data, at + 8)
            elif command == _LC_DYSYMTAB:
                self._indirect_offset = struct.unpack_from("<18I", self.data, at + 8)[12]
            at += size

    def _read_segment(self, at: int) -> None:
        name, address, size, offset, file_size, _, _, sections, _ = struct.unpack_from(
            "<16sQQQQiiII", self.data, at + 8
        )
        self.segments.append(Segment(_text(name), address, size, offset, file_size))
        for index in range(sections):
            fields = struct.unpack_from("<16s16sQQ8I", self.data, at + 72 + 80 * index)
            section, segment, start, length, file_offset, *_, reserved1, reserved2, _ = fields
            self.sections.append(
                Section(_text(section), _text(segment), start, length, file_offset, reserved1, reserved2)
            )

    def _read_symbols(self) -> None:
        offset, count, strings_at, strings_size = self._symbol_table
        self._nlist = np.frombuffer(self.data, dtype=_NLIST, count=count, offset=offset)
        self._strings = self.data[strings_at : strings_at + strings_size]
        kind = self._nlist["type"]
        defined = self._nlist[((kind & _N_STAB) == 0) & ((kind & _N_TYPE) == _N_SECT)]
        #: The (address, mangled name) of every defined symbol, by address, then in the table's order.
        order = np.argsort(defined["value"], kind="stable")
        self.addresses: list[int] = defined["value"][order].tolist()
        self.names: list[str] = [self._string(at) for at in defined["name"][order].tolist()]
        self.address_of: dict[str, int] = {}
        self.name_at: dict[int, str] = {}
        for address, name in zip(self.addresses, self.names, strict=True):
            self.address_of.setdefault(name, address)
            self.name_at.setdefault(address, name)

    def _string(self, at: int) -> str:
        return self._strings[at : self._strings.index(b"\0", at)].decode("utf-8", "replace")

    def section(self, name: str) -> Section | None:
        """Return the first section called `name`."""
        return next((section for section in self.sections if section.name == name), None)

    @cached_property
    def text(self) -> Section:
        """Return the section `__text`, which holds the machine code.

        Raises:
            ValueError: The library has no such section.
        """
        section = self.section("__text")
        if section is None:
            raise ValueError(f"{self.path}: has no __text section.")
        return section

    @cached_property
    def stubs(self) -> dict[int, str]:
        """Return the name of the symbol that each import stub jumps to, by the stub's address."""
        section = self.section("__stubs")
        if section is None:
            return {}
        width = section.reserved2 or 12
        found = {}
        for index in range(section.size // width):
            at = self._indirect_offset + 4 * (section.reserved1 + index)
            (symbol,) = struct.unpack_from("<I", self.data, at)
            if symbol & 0xC0000000:  # INDIRECT_SYMBOL_LOCAL or _ABS: no name
                continue
            found[section.address + index * width] = self._string(int(self._nlist[symbol]["name"]))
        return found

    @cached_property
    def fixups(self) -> tuple[dict[int, str], dict[int, int]]:
        """Return the pointers that the dynamic loader writes: by their address, imported symbols and own addresses.

        Raises:
            ValueError: The library cannot be read by lief.
        """
        config = lief.MachO.ParserConfig()
        config.parse_dyld_exports = False
        config.parse_dyld_bindings = True
        config.parse_dyld_rebases = True
        fat = lief.MachO.parse(str(self.path), config)
        binary = None if fat is None else fat.at(0)
        if binary is None:
            raise ValueError(f"{self.path}: lief cannot read it.")
        binds = {bind.address: str(bind.symbol.name) for bind in binary.bindings if bind.has_symbol}
        rebases = {}
        for relocation in binary.relocations:
            if isinstance(relocation, lief.MachO.RelocationFixup):  # chained fixups: macOS 12 and later
                rebases[relocation.address] = int(relocation.target)
            else:
                offset = self.offset(relocation.address)
                if offset is not None:
                    (rebases[relocation.address],) = struct.unpack_from("<Q", self.data, offset)
        return binds, rebases

    @cached_property
    def pointers(self) -> dict[int, int]:
        """Return the target of each pointer inside the image by its address, including imports of its own symbols."""
        binds, rebases = self.fixups
        own = {at: self.address_of[name] for at, name in binds.items() if name in self.address_of}
        return rebases | own

    def offset(self, address: int) -> int | None:
        """Return the offset of an address in the file; None when the file holds no byte for it."""
        for segment in self.segments:
            if segment.address <= address < segment.address + segment.file_size:
                return segment.offset + address - segment.address
        return None

    def c_string(self, address: int, limit: int = 400) -> str | None:
        """Return the zero-terminated ASCII string of less than `limit` bytes at `address`; None when there is none."""
        start = self.offset(address)
        if start is None:
            return None
        end = self.data.find(b"\0", start, start + limit)
        if end < 0:
            return None
        try:
            return self.data[start:end].decode("ascii")
        except UnicodeDecodeError:
            return None

    def symbol_before(self, address: int) -> tuple[str, int] | None:
        """Return name and address of the last symbol at or before `address`; None when there is none."""
        index = bisect.bisect_right(self.addresses, address) - 1
        return (self.names[index], self.addresses[index]) if index >= 0 else None


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode("ascii")
