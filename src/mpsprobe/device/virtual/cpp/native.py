"""The few bytes of machine code and the C++ vtables that the virtual device needs, through ctypes.

PyTorch asks two C++ objects about a device: its guard (`c10::impl::DeviceGuardImplInterface`) and its hooks
(`at::MPSHooksInterface`). A Linux build has no guard for MPS and hooks that refuse. Both are plain objects
with a vtable, so a copy of a vtable with some slots replaced is a new implementation. The slot order is read
from the headers that the wheel ships, never assumed.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import platform
import re
from pathlib import Path

import torch

from mpsprobe.device.virtual.errors import UnsupportedInstallError

#: Values of `c10::DeviceType`, stable since torch 1.12 (c10/core/DeviceType.h).
DEVICE_TYPE_CPU, DEVICE_TYPE_CUDA, DEVICE_TYPE_MPS = 0, 1, 13
#: `COMPILE_TIME_MAX_DEVICE_TYPES` (c10/core/DeviceType.h): the length of c10's registries.
DEVICE_TYPES = 21

#: Two words precede a vtable's first function: the offset to the top and the type info (Itanium C++ ABI).
_HEADER_WORDS = 2
#: More slots than any of the two classes has; what lies behind the vtable is copied and never called.
_VTABLE_WORDS = 96

#: Code of functions that ignore their arguments, for each machine.
#: `mps0` returns {type 13, index 0} in the first and 0 in the second result register, which is a
#: `c10::Device` and a default `c10::Stream` of it at once (System V and AAPCS64 return both in registers).
_CODE: dict[str, dict[str, bytes]] = {
    "x86_64": {
        "mps0": bytes.fromhex("b80d00000031d2c3"),  # mov eax, 13; xor edx, edx; ret
        "one": bytes.fromhex("b801000000c3"),  # mov eax, 1; ret
        "zero": bytes.fromhex("31c031d2c3"),  # xor eax, eax; xor edx, edx; ret
    },
}


@functools.cache
def library(name: str) -> ctypes.CDLL:
    """One of the shared libraries inside the torch package, e.g. `"libc10.so"`."""
    path = Path(torch.__file__).parent / "lib" / name
    try:
        return ctypes.CDLL(str(path))
    except OSError as problem:
        raise UnsupportedInstallError(f"{path} cannot be loaded: {problem}.") from problem


@functools.cache
def function(name: str) -> int:
    """Address of a small function: `"mps0"`, `"one"` or `"zero"`. The page lives as long as the process.

    Raises:
        UnsupportedInstallError: no code for this machine, or the system forbids executable memory (SELinux).
    """
    code = _CODE.get(platform.machine(), {}).get(name)
    if code is None:
        raise UnsupportedInstallError(
            f"The virtual device has no machine code for {platform.machine()}.", "It needs Linux on x86-64."
        )
    return _executable(code)


def returning(pointer: int) -> int:
    """Address of a function that returns `pointer`, whatever its arguments."""
    if platform.machine() != "x86_64":
        raise UnsupportedInstallError(f"The virtual device has no machine code for {platform.machine()}.")
    return _executable(b"\x48\xb8" + pointer.to_bytes(8, "little") + b"\xc3")  # movabs rax, pointer; ret


_pages: list[mmap.mmap] = []


def _executable(code: bytes) -> int:
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(
        ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), mmap.PROT_READ | mmap.PROT_EXEC
    ):
        raise UnsupportedInstallError(
            f"The system refused executable memory (mprotect: error {ctypes.get_errno()}).",
            "A security policy such as SELinux's deny_execmem forbids it.",
        )
    _pages.append(page)
    return address


class PatchedVtable:
    """A copy of an object's vtable with some functions replaced.

    Attributes:
        address: what an object's first word must hold to use it.
    """

    def __init__(self, obj: int, slots: list[str], replaced: dict[str, int]) -> None:
        original = ctypes.c_void_p.from_address(obj).value
        assert original is not None
        self._words = (ctypes.c_void_p * (_VTABLE_WORDS + _HEADER_WORDS))()
        size = ctypes.sizeof(ctypes.c_void_p) * (min(len(slots), _VTABLE_WORDS) + _HEADER_WORDS)
        ctypes.memmove(self._words, original - 8 * _HEADER_WORDS, size)
        for index, name in enumerate(slots):
            if name in replaced:
                self._words[_HEADER_WORDS + index] = replaced[name]
        self.address = ctypes.addressof(self._words) + 8 * _HEADER_WORDS


def virtual_functions(header: str, struct: str) -> list[tuple[str, bool]]:
    """The functions that `struct` declares virtual or overrides, in order, each with whether it overrides.

    A virtual destructor stands for the two slots that the Itanium ABI gives it.
    """
    path = Path(torch.__file__).parent / "include" / header
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as problem:
        raise UnsupportedInstallError(f"{path} cannot be read: {problem.strerror}.") from problem
    text = re.sub(r"/\*.*?\*/|//[^\n]*|^\s*#[^\n]*", "", text, flags=re.DOTALL | re.MULTILINE)
    match = re.search(rf"struct\s+(?:\w+_API\s+)?{struct}\b[^;{{]*\{{", text)
    if match is None:
        raise UnsupportedInstallError(f"{path} does not declare {struct}.")
    found: list[tuple[str, bool]] = []
    for declaration in _declarations(text[match.end() :]):
        name = re.search(r"(~?\w+)\s*\(", declaration)
        is_virtual, overrides = declaration.startswith("virtual"), " override" in declaration
        if name is None or not (is_virtual or overrides):
            continue
        if name.group(1).startswith("~"):
            if not overrides:
                found += [("~complete", False), ("~deleting", False)]
        else:
            found.append((name.group(1), overrides))
    return found


def _declarations(body: str) -> list[str]:
    """The member declarations of a class body, without the bodies of its functions."""
    found, depth, current = [], 0, ""
    for char in body:
        if char == "{":
            if depth == 0:
                found.append(current)
                current = ""
            depth += 1
        elif char == "}":
            depth -= 1
            if depth < 0:
                break
        elif depth == 0:
            if char == ";":
                found.append(current)
                current = ""
            else:
                current += char
    return [" ".join(one.replace("[[maybe_unused]]", "").split()) for one in found]
