"""What differs on macOS by a number or a name, executed with `sys.platform` set and calls of the system replaced."""

from __future__ import annotations

import ctypes
import resource
from types import SimpleNamespace
from typing import Any

import pytest

from mpsprobe.device import real
from mpsprobe.device.virtual import support
from mpsprobe.device.virtual.cpp import native, relabel
from mpsprobe.device.virtual.memoryless import tensors
from mpsprobe.errors import UnsupportedInstallError
from mpsprobe.mac import facts
from mpsprobe.models import targets
from mpsprobe.models.hub import locks
from mpsprobe.options import Settings
from mpsprobe.phases import pins


@pytest.fixture
def darwin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")


@pytest.mark.parametrize(("platform", "nbytes"), [("darwin", 5_000_000), ("linux", 5_000_000 * 1024)])
def test_the_largest_resident_set_is_in_bytes(
    monkeypatch: pytest.MonkeyPatch, platform: str, nbytes: int
) -> None:
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=5_000_000))
    assert real._max_rss() == nbytes


@pytest.mark.usefixtures("darwin")
def test_address_space_is_reserved_with_macs_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def mmap(_address: None, size: int, _protection: int, flags: int, _file: int, _offset: int) -> int | None:
        asked.append((size, flags))
        return 1 << 40 if len(asked) == 3 else tensors._MAP_FAILED

    monkeypatch.setattr(tensors, "_libc", SimpleNamespace(mmap=mmap))
    memoryless = tensors.MemorylessTensors()
    # MAP_NORESERVE is 0x0040 in sys/mman.h of macOS, 0x4000 on Linux
    assert all(flags & 0x40 and not flags & 0x4000 for _, flags in asked)
    assert [size for size, _ in asked] == [1 << 44, 1 << 43, 1 << 42]  # a refusal asks for half
    assert memoryless.end - memoryless.start == 1 << 42


@pytest.mark.usefixtures("darwin")
def test_a_system_without_address_space_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "_libc", SimpleNamespace(mmap=lambda *_: tensors._MAP_FAILED))
    with pytest.raises(UnsupportedInstallError, match="64 GB of address space"):
        tensors.MemorylessTensors()


@pytest.mark.usefixtures("darwin")
def test_the_abi_is_looked_for_in_macs_library(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def library(name: str) -> Any:
        asked.append(name)
        return SimpleNamespace(aoti_torch_dtype_float32=lambda: 6)

    monkeypatch.setattr(native, "library", library)
    relabel._dtype_code.cache_clear()
    import torch

    try:
        assert relabel._dtype_code(torch.float32) == 6
    finally:
        relabel._dtype_code.cache_clear()
    assert asked == ["libtorch_cpu.dylib"]


@pytest.mark.parametrize(("answer", "sandboxed"), [(1, True), (0, False)])
def test_the_sandbox_is_asked_of_libsystem(
    monkeypatch: pytest.MonkeyPatch, answer: int, sandboxed: bool
) -> None:
    asked: list[tuple[Any, ...]] = []

    def check(*words: Any) -> int:
        asked.append(words)
        return answer

    library = SimpleNamespace(sandbox_check=check)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    monkeypatch.setattr(facts.LocalSystem, "system", "Darwin")
    assert facts.LocalSystem().sandboxed() is sandboxed
    ((process, operation, kind),) = asked
    assert (process > 1, operation, kind) == (True, None, 0)


def test_a_system_without_sandbox_check_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts.LocalSystem, "system", "Darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    assert facts.LocalSystem().sandboxed() is None


@pytest.mark.usefixtures("darwin")
def test_a_macs_torch_without_mps_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    with pytest.raises(UnsupportedInstallError, match="was built without MPS") as told:
        support.require(memoryless=True)
    assert "pip install --force-reinstall torch" in told.value.hint
    assert "docker" in told.value.hint


def test_an_intel_mac_is_told_its_last_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(pins, "solve", lambda *_: None)
    found = pins.of_target(targets.resolve(Settings()))
    (note,) = [note for note in found.notes if "Intel Macs" in note]
    assert "torch 2.2.2 is the last release" in note


@pytest.mark.usefixtures("darwin")
def test_the_holder_of_a_lock_is_found_without_proc(tmp_path: Any) -> None:
    file = tmp_path / "file.lock"
    with file.open("w"):
        assert locks.holder(file) is None  # this process itself is no other
