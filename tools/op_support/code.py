"""Decode the library's functions as control-flow graphs, with their calls and references.

Only the arm64 instructions that this needs are decoded: branches, calls, returns, and the address arithmetic
(`adrp` with `add` or `ldr`) that the compiler emits for strings, variables and imports.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from op_support.macho import Image


@dataclass
class Block:
    """Successive instructions of a function that end at a branch, or where another block begins.

    Attributes:
        calls: The called addresses, in order; None where a register holds the address.
        next: The start addresses of the blocks that may follow inside the function.
        exits: Whether control may leave the function at the end, by `ret` or through an unknown register.
        tail: The addresses outside the function to which it jumps: tail calls, which return for it.
    """

    calls: list[int | None] = field(default_factory=list)
    next: list[int] = field(default_factory=list)
    exits: bool = False
    tail: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Function:
    """One function: its blocks by start address, and every address outside its code to which it refers."""

    start: int
    blocks: dict[int, Block]
    refers: tuple[int, ...]

    @property
    def callees(self) -> list[int]:
        """Return the addresses that the function calls or jumps to, in order of first appearance."""
        seen: dict[int, None] = {}
        for block in self.blocks.values():
            for target in (*block.calls, *block.tail):
                if target is not None:
                    seen.setdefault(target)
        return list(seen)


class Code:
    """The library's functions, decoded on request."""

    def __init__(self, image: Image) -> None:
        text = image.text
        self._start, self._end = text.address, text.address + text.size
        self._words = np.frombuffer(image.data, dtype="<u4", count=text.size // 4, offset=text.offset)
        self._pointers = image.pointers
        self._stubs = {
            at: image.address_of[name] for at, name in image.stubs.items() if name in image.address_of
        }
        self._starts = sorted({address for address in image.addresses if self._start <= address < self._end})
        self._decoded: dict[int, Function] = {}

    def holds(self, address: int) -> bool:
        """Return whether an address is code."""
        return self._start <= address < self._end

    def start_of(self, address: int) -> int:
        """Return the start of the function that contains an address."""
        return self._starts[bisect.bisect_right(self._starts, address) - 1]

    def function(self, address: int) -> Function:
        """Return the function that contains an address."""
        start = self.start_of(address)
        if start not in self._decoded:
            self._decoded[start] = self._decode(start)
        return self._decoded[start]

    def _decode(self, start: int) -> Function:
        index = bisect.bisect_right(self._starts, start)
        end = self._starts[index] if index < len(self._starts) else self._end
        words: list[int] = self._words[(start - self._start) // 4 : (end - self._start) // 4].tolist()
        branches = {
            start + 4 * i: branch for i, word in enumerate(words) if (branch := _branch(word, start + 4 * i))
        }
        leaders = {start}
        for at, branch in branches.items():
            if branch.kind != "call":
                leaders.add(at + 4)
            if branch.kind != "call" and branch.target is not None and start <= branch.target < end:
                leaders.add(branch.target)
        blocks: dict[int, Block] = {}
        ordered = sorted(leader for leader in leaders if leader < end)
        for leader, following in zip(ordered, [*ordered[1:], end], strict=True):
            blocks[leader] = self._block(leader, following, start, end, branches)
        return Function(start, blocks, tuple(self._references(words, start)))

    def _block(
        self, leader: int, following: int, start: int, end: int, branches: dict[int, _Branch]
    ) -> Block:
        block = Block()
        falls_through = True
        for at in range(leader, following, 4):
            branch = branches.get(at)
            if branch is None:
                continue
            target = branch.target if branch.target is None else self._stubs.get(branch.target, branch.target)
            if branch.kind == "call":
                block.calls.append(target)
                continue
            falls_through = branch.kind == "conditional"
            if target is None:
                block.exits = branch.kind in {"return", "indirect"}
            elif start <= target < end:
                block.next.append(target)
            else:
                block.tail.append(target)
        if falls_through and following < end:
            block.next.append(following)
        return block

    def _references(self, words: list[int], start: int) -> list[int]:
        """Return the addresses that `adrp` makes with `add` (the address) or `ldr` (the pointer stored there)."""
        pages: dict[int, int] = {}
        found: dict[int, None] = {}
        for i, word in enumerate(words):
            destination = word & 31
            if word & 0x9F000000 == 0x90000000:  # adrp
                offset = ((word >> 5) & 0x7FFFF) << 2 | (word >> 29) & 3
                pages[destination] = ((start + 4 * i) & ~0xFFF) + (_signed(offset, 21) << 12)
                continue
            if not pages:
                continue
            base = (word >> 5) & 31
            if word & 0xFF800000 == 0x91000000 and base in pages:  # add, immediate
                immediate = (word >> 10) & 0xFFF
                found.setdefault(pages[base] + (immediate << 12 if word >> 22 & 1 else immediate))
            elif word & 0xFFC00000 == 0xF9400000 and base in pages:  # ldr, unsigned offset
                slot = pages[base] + ((word >> 10) & 0xFFF) * 8
                found.setdefault(self._pointers.get(slot, slot))
            if word & 0xFC000000 == 0x94000000:  # a call keeps only x19 and up
                pages = {register: page for register, page in pages.items() if register > 18}
            elif word & 0xFC000000 == 0x14000000 or word == 0xD65F03C0:  # b, ret: another path goes on
                pages = {}
            elif destination in pages and _writes_destination(word):
                del pages[destination]
        return list(found)


@dataclass(frozen=True)
class _Branch:
    kind: str  # "call", "jump", "conditional", "return", "indirect" or "stop"
    target: int | None


def _branch(word: int, at: int) -> _Branch | None:
    top = word & 0xFC000000
    if top == 0x94000000:
        return _Branch("call", at + 4 * _signed(word & 0x3FFFFFF, 26))
    if top == 0x14000000:
        return _Branch("jump", at + 4 * _signed(word & 0x3FFFFFF, 26))
    if word & 0xFF000010 == 0x54000000 or word & 0x7E000000 == 0x34000000:  # b.cond, cbz, cbnz
        return _Branch("conditional", at + 4 * _signed(word >> 5 & 0x7FFFF, 19))
    if word & 0x7E000000 == 0x36000000:  # tbz, tbnz
        return _Branch("conditional", at + 4 * _signed(word >> 5 & 0x3FFF, 14))
    if word & 0xFFFFFC1F == 0xD63F0000:  # blr
        return _Branch("call", None)
    if word & 0xFFFFFC1F == 0xD61F0000:  # br: a jump table or a tail call
        return _Branch("indirect", None)
    if word & 0xFFFFFC1F == 0xD65F0000:
        return _Branch("return", None)
    if word & 0xFFE0001F == 0xD4200000 or word & 0xFFFF0000 == 0:  # brk, udf
        return _Branch("stop", None)
    return None


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value & 1 << bits - 1 else value


def _writes_destination(word: int) -> bool:
    """Return whether an instruction overwrites the register in its lowest five bits; branches and stores do not."""
    group = word >> 25 & 15
    if group in {0b1010, 0b1011}:
        return False
    is_store = group & 0b0101 == 0b0100 and not word >> 22 & 1
    return not is_store
