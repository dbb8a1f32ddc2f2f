"""Read in the machine code, without running it, which ops a kernel calls and which messages it can raise.

There are two questions with different answers: which ops a kernel calls on *every* path that returns (`always`),
and which it, or a function below it, calls on *some* path (`reach`). The first is exact about control flow inside
the functions that are followed, and ignores calls through registers, so its results are certain but incomplete. The
second also counts paths that only other devices or layouts take.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from op_support.code import Code, Function

if TYPE_CHECKING:
    from op_support.macho import Image

#: Functions that call nothing specific to the op.
_LEAVES = (
    "__ZN2at8internal",
    "__ZN2at6detail",
    "__ZN2at14Tensor",
    "__ZN2at18TensorIteratorBase",
    "__ZN2at20TensorIteratorConfig",
    "__ZN2at9Tensor",
)
_OP_CALL = re.compile(r"^__ZN2at4_ops(\d+)")
_FREE_FUNCTION = re.compile(r"^__ZN2at\d+[a-z_]\w*?E[RKPN]|^__ZNK?2at6Tensor\d+[a-z_]")
_KERNELS = ("__ZN2at12_GLOBAL__N_1", "__ZZN2at12_GLOBAL", "__ZN2atL", "__ZN2at4meta", "_OUTLINED_FUNCTION")
_NO_RETURN = (
    "___cxa_throw",
    "___cxa_rethrow",
    "___cxa_bad_cast",
    "__Unwind_Resume",
    "___stack_chk_fail",
    "_abort",
    "torchCheckFail",
    "torchInternalAssertFail",
    "terminate",
    "__throw_",
    "throwNullDataPtrError",
)
#: The depth and the width of a search below one kernel. Depth 9 is enough for kernels behind a stub and two
#: helpers; the width keeps a kernel that reaches a JIT or a parser from pulling the whole library in.
_DEPTH = 9
_WIDTH = 4000


@dataclass
class Reach:
    """The ops, by their structure names (`add_Tensor`), and the messages that a kernel can reach."""

    ops: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _Local:
    """The ops, the messages and the start addresses of functions that one function refers to directly."""

    ops: frozenset[str]
    texts: frozenset[str]
    callees: tuple[int, ...]


class CallGraph:
    """The functions of the library that kernels of ATen ops consist of, with what each calls."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._code = Code(image)
        self._pointers = image.pointers
        strings, objects = image.section("__cstring"), image.section("__cfstring")
        self._strings, self._objects = strings, objects
        self._constants = [
            section
            for section in image.sections
            if section.segment.startswith("__DATA") and section.name in {"__const", "__data"}
        ]
        self._stub_names = image.stubs
        self._locals: dict[int, _Local] = {}
        self._always: dict[int, frozenset[str] | None] = {}
        self._running: set[int] = set()

    def reach(self, kernel: int) -> Reach:
        """Return the ops and messages on any path below a kernel, within the bounds `_DEPTH` and `_WIDTH`."""
        start = self._code.start_of(kernel)
        depths = {start: 0}
        queue = deque([start])
        found = Reach()
        while queue:
            function = queue.popleft()
            local = self._local(function)
            found.ops |= local.ops
            found.texts |= local.texts
            if depths[function] >= _DEPTH or len(depths) > _WIDTH:
                continue
            for callee in local.callees:
                if callee not in depths:
                    depths[callee] = depths[function] + 1
                    queue.append(callee)
        return found

    def always(self, kernel: int) -> frozenset[str]:
        """Return the ops that are called on every path on which a kernel returns; empty when it never returns."""
        return self._always_of(self._code.start_of(kernel)) or frozenset()

    def _always_of(self, start: int) -> frozenset[str] | None:
        """Return the result of `always` for a function; None for one that never returns."""
        if start in self._always:
            return self._always[start]
        if start in self._running:
            return frozenset()  # recursion, for which the inner call claims nothing
        self._running.add(start)
        result = self._flow(self._code.function(start))
        self._running.discard(start)
        self._always[start] = result
        return result

    def _flow(self, function: Function) -> frozenset[str] | None:
        """Return the ops called on every path to an exit of a function, by forward data flow; None without an exit."""
        at_start: dict[int, frozenset[str]] = {function.start: frozenset()}
        pending = deque([function.start])
        exits: dict[int, list[frozenset[str]]] = {}
        while pending:
            address = pending.popleft()
            block = function.blocks[address]
            called = self._after_calls(at_start[address], block.calls)
            exits[address] = []
            if called is None:
                continue
            if block.exits:
                exits[address].append(called)
            for target in block.tail:
                end = self._after_calls(called, [target])
                if end is not None:
                    exits[address].append(end)
            for following in block.next:
                known = at_start.get(following)
                merged = called if known is None else known & called
                if merged != known:
                    at_start[following] = merged
                    pending.append(following)
        ends = [end for group in exits.values() for end in group]
        return frozenset.intersection(*ends) if ends else None

    def _after_calls(self, called: frozenset[str], calls: Iterable[int | None]) -> frozenset[str] | None:
        for target in calls:
            if target is None:
                continue
            name = self._name(target)
            op = _op(name)
            if op is not None:
                called |= {op}
            elif any(part in name for part in _NO_RETURN):
                return None
            elif self._code.holds(target) and _followed(name):
                below = self._always_of(self._code.start_of(target))
                if below is None:
                    return None
                called |= below
        return called

    def _name(self, address: int) -> str:
        stub = self._stub_names.get(address)
        if stub is not None:
            return stub
        symbol = self._image.symbol_before(address)
        return symbol[0] if symbol else ""

    def _local(self, start: int) -> _Local:
        if start not in self._locals:
            self._locals[start] = self._read(self._code.function(start))
        return self._locals[start]

    def _read(self, function: Function) -> _Local:
        ops: set[str] = set()
        texts: set[str] = set()
        callees: dict[int, None] = {}
        for target in function.callees:
            name = self._name(target)
            op = _op(name)
            if op is not None:
                ops.add(op)
            elif self._code.holds(target) and _followed(name):
                callees.setdefault(self._code.start_of(target))
        for address in function.refers:
            text = self._text(address)
            if text is not None:
                texts.add(text)
            elif self._code.holds(address):
                if _followed(self._name(address)):
                    callees.setdefault(self._code.start_of(address))
            else:
                for pointer in self._closures(address):
                    callees.setdefault(pointer)
        return _Local(frozenset(ops), frozenset(texts), tuple(callees))

    def _text(self, address: int) -> str | None:
        if self._strings is not None and address in self._strings:
            return self._image.c_string(address)
        if self._objects is not None and address in self._objects:
            start = address - (address - self._objects.address) % 32  # struct __NSConstantString: 32 bytes
            content = self._pointers.get(start + 16)
            return None if content is None else self._image.c_string(content)
        return None

    def _closures(self, address: int) -> list[int]:
        """Return the functions behind an Objective-C block or the virtual table of a `std::function` at `address`."""
        if not any(address in section for section in self._constants):
            return []
        name = self._image.name_at.get(address, "")
        if name.startswith("___block"):
            offsets: Iterable[int] = (16,)
        elif name.startswith("__ZTVNSt3__110__function") or (
            name.startswith("__ZTV") and "2at" in name and "structured" not in name
        ):
            offsets = range(0x10, 0x60, 8)
        else:
            return []
        pointers = (self._pointers.get(address + offset) for offset in offsets)
        return [
            self._code.start_of(pointer)
            for pointer in pointers
            if pointer is not None and self._code.holds(pointer) and _followed(self._name(pointer))
        ]


def _op(name: str) -> str | None:
    """Return `add_Tensor` for the mangled name of `at::_ops::add_Tensor::call` or `::redispatch`; None for others."""
    match = _OP_CALL.match(name)
    if not match:
        return None
    end = match.end() + int(match[1])
    return name[match.end() : end] if name[end:].startswith(("4call", "10redispatch")) else None


def _followed(name: str) -> bool:
    if name.startswith(_LEAVES) or "DispatchStubImpl" in name:
        return False
    if _FREE_FUNCTION.match(name) or "2at6native" in name or name.startswith(_KERNELS):
        return True
    if "wrap_kernel_functor_unboxed" in name:
        return "wrapper_" in name
    return "_block_invoke" in name and "2at" in name
