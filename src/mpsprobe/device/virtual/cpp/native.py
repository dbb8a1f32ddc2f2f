"""The few bytes of machine code and the C++ vtables that the virtual device needs, through ctypes.

PyTorch asks two C++ objects about a device: its guard (`c10::impl::DeviceGuardImplInterface`) and its hooks
(`at::MPSHooksInterface`). A Linux build has no guard for MPS, and hooks that refuse. Both are plain objects with a
vtable, so a copy of a vtable with some slots replaced is a new implementation. The slot order is read from the
headers that the wheel ships, never assumed.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import platform
import re
from pathlib import Path

import torch

from mpsprobe.errors import UnsupportedInstallError

#: Values of `c10::DeviceType`, stable since torch 1.12 (c10/core/DeviceType.h).
DEVICE_TYPE_CPU, DEVICE_TYPE_CUDA, DEVICE_TYPE_MPS = 0, 1, 13
#: The length of c10's registries: `COMPILE_TIME_MAX_DEVICE_TYPES` (c10/core/DeviceType.h).
DEVICE_TYPES = 21

#: Two words precede a vtable's first function: the offset to the top and the type info (Itanium C++ ABI).
_HEADER_WORDS = 2
#: More slots than either of the two classes has; the slots that are not copied stay null.
_VTABLE_WORDS = 96

#: Machine code of functions that ignore their arguments, by architecture.
#: `mps0` returns {type 13, index 0} in the first and 0 in the second result register, which is a
#: `c10::Device` and a default `c10::Stream` of it at once (System V and AAPCS64 return both in registers).
_CODE: dict[str, dict[str, bytes]] = {
    "x86_64": {
        "mps0": bytes.fromhex("b80d00000031d2c3"),  # mov eax, 13; xor edx, edx; ret
        "one": bytes.fromhex("b801000000c3"),  # mov eax, 1; ret
        "zero": bytes.fromhex("31c031d2c3"),  # xor eax, eax; xor edx, edx; ret
        "pointer": bytes.fromhex("48b8"),  # movabs rax, the next eight bytes; ...
        "ret": bytes.fromhex("c3"),  # ... ret
    },
    "aarch64": {
        "mps0": bytes.fromhex("a0018052010080d2c0035fd6"),  # mov w0, #13; mov x1, #0; ret
        "one": bytes.fromhex("20008052c0035fd6"),  # mov w0, #1; ret
        "zero": bytes.fromhex("000080d2010080d2c0035fd6"),  # mov x0, #0; mov x1, #0; ret
        "pointer": bytes.fromhex("40000058c0035fd6"),  # ldr x0, #8; ret; the eight bytes
        "ret": b"",
    },
}


def installed_release() -> tuple[int, int]:
    """Return the major and minor version of the installed PyTorch: (2, 13) for `"2.13.0+cpu"`."""
    match = re.match(r"(\d+)\.(\d+)", torch.__version__)
    assert match is not None
    return int(match[1]), int(match[2])


@functools.cache
def library(name: str) -> ctypes.CDLL:
    """Load one of the shared libraries inside the torch package, such as `"libc10.so"`.

    Raises:
        UnsupportedInstallError: The package lacks the library, or it cannot be loaded.
    """
    path = Path(torch.__file__).parent / "lib" / name
    try:
        return ctypes.CDLL(str(path))
    except OSError as problem:
        raise UnsupportedInstallError(f"{path} cannot be loaded: {problem}.") from problem


@functools.cache
def function(name: str) -> int:
    """Return the address of a small function: `"mps0"`, `"one"` or `"zero"`. Its page lives as long as the process.

    Raises:
        UnsupportedInstallError: There is no code for this machine, or the system forbids executable memory, as
            SELinux may.
    """
    return _executable(_code(name))


def returning(pointer: int) -> int:
    """Return the address of a new function that returns `pointer`, whatever its arguments.

    Raises:
        UnsupportedInstallError: As `function` does.
    """
    return _executable(_code("pointer") + pointer.to_bytes(8, "little") + _code("ret"))


def _code(name: str) -> bytes:
    code = _CODE.get(platform.machine(), {}).get(name)
    if code is None:
        raise UnsupportedInstallError(
            f"The virtual device has no machine code for {platform.machine()}.",
            f"It runs on Linux on {' and '.join(MACHINES)}.",
        )
    return code


#: The values of `platform.machine()` for which there is machine code.
MACHINES = tuple(_CODE)

_pages: list[mmap.mmap] = []


def _executable(code: bytes) -> int:
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(
        ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), mmap.PROT_READ | mmap.PROT_EXEC
    ):
        number = ctypes.get_errno()
        raise UnsupportedInstallError(
            f"The system refused executable memory (mprotect: {os.strerror(number)}).", _who_forbids()
        )
    if platform.machine() == "aarch64":
        # Arm has separate caches for data and instructions. Without this the processor may run what the
        # page held before. x86 keeps them coherent.
        flush = ctypes.CDLL("libgcc_s.so.1")["__clear_cache"]
        flush.restype = None
        flush(ctypes.c_void_p(address), ctypes.c_void_p(address + len(code)))
    _pages.append(page)
    return address


def _who_forbids() -> str:
    """Return a sentence on the security policy that forbids executable memory, with the way around it if known."""
    status = _text("/proc/self/status")
    if _text("/sys/fs/selinux/enforce").strip() == "1":
        domain = _text("/proc/self/attr/current").strip("\0\n ") or "this process's domain"
        return (
            f"SELinux is enforcing and forbids it to {domain}: `getsebool deny_execmem` shows whether it does so to "
            "all; `setsebool deny_execmem off` allows it."
        )
    if re.search(r"^PaX:\s+\S*M", status, re.MULTILINE):
        return "The kernel's PaX forbids it (MPROTECT): `paxctl -m` on the Python binary allows it."
    if re.search(r"^Seccomp:\s+2", status, re.MULTILINE):
        return (
            "A seccomp filter forbids it, such as systemd's MemoryDenyWriteExecute=yes or a sandbox's: run "
            "outside of it, or in a plain container."
        )
    if _denies_gain():
        return "The process was started with PR_SET_MDWE (memory-deny-write-execute): start it without."
    return "A hardened kernel or a security policy forbids it; try a plain container or another machine."


#: The prctl option that tells whether memory may become executable (prctl.h, Linux 6.3).
_PR_GET_MDWE = 66


def _denies_gain() -> bool:
    denied: int = ctypes.CDLL(None, use_errno=True).prctl(_PR_GET_MDWE, 0, 0, 0, 0)
    return denied > 0


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


class PatchedVtable:
    """A copy of a C++ object's vtable with some functions replaced.

    Args:
        obj: The address of the object.
        slots: The names of the vtable's functions in order.
        replaced: The addresses of the new functions, by name.

    Attributes:
        address: The value that an object's first word must hold to use it.
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
    """Return the functions that `struct` declares virtual or overrides, in order, each with whether it overrides.

    A virtual destructor is listed as the two slots that the Itanium ABI gives it, `~complete` and `~deleting`.

    Args:
        header: The path of the header below torch's `include`.
        struct: The name of the struct.

    Raises:
        UnsupportedInstallError: The header cannot be read, or does not declare `struct`.
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
    """Split a class body into member declarations, without the bodies of its functions."""
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
