"""Which device is chosen, and what is said where one fails: faults are planted in child processes."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
import torch

from mpsprobe.device import select
from mpsprobe.device.emulated import Emulated
from mpsprobe.device.real import Cpu, Device
from mpsprobe.device.select import (
    DeviceUnavailableError,
    Probe,
    choose,
    explain_failure,
    limits,
    probe_device,
    probe_prediction,
)
from mpsprobe.errors import UnsupportedInstallError, UsageError
from mpsprobe.mac.unavailable import TorchFacts
from mpsprobe.run import DeviceChoice, Evidence, Host, Mac, Status

LINUX = Host(system="Linux", machine="x86_64", os_version="6.8.0", chip="Intel(R) Xeon(R) Processor")
MAC = Host(system="Darwin", machine="arm64", os_version="15.5", chip="Apple M3", gpu="Apple M3")
RUNNER = Host(
    system="Darwin",
    machine="arm64",
    os_version="15.5",
    chip="Apple M1 (Virtual)",
    gpu="Apple Paravirtual device",
    virtual_gpu=True,
)

#: runner-images issue 9918 (macos-14, 2024-05-23) and pytorch PR 112265 (2023-10-27).
NOTHING_FREE = [
    "RuntimeError: MPS backend out of memory (MPS allocated: 0 bytes, other allocations: 0 bytes, "
    "max allowed: 7.93 GB). Tried to allocate 256 bytes on private pool.",
    "RuntimeError: MPS backend out of memory (MPS allocated: 0 bytes, other allocations: 0 bytes, "
    "max allowed: 1.70 GB). Tried to allocate 0 bytes on private pool.",
]
#: runner-images issue 11899 (macos-15, 2025-03-31).
CAPPED = (
    "RuntimeError: MPS backend out of memory (MPS allocated: 1024.00 MB). "
    "Tried to allocate 256 bytes on shared pool."
)


class FakeMps(Cpu):
    """Stands in for the GPU of a Mac."""

    name = "mps"


def computes(name: str) -> Probe:
    return Probe(Status.PASS, f"{name} computes.")


@pytest.fixture
def on_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch finds a device."""
    monkeypatch.setattr(select, "torch_facts", lambda: TorchFacts("2.13.0", built=True, available=True))
    monkeypatch.setattr(select, "Mps", FakeMps)


def test_auto_takes_mps_where_it_computes(on_a_mac: None) -> None:
    device, choice = choose("auto", MAC, computes)
    assert device.name == "mps"
    assert choice == DeviceChoice("auto", "mps", "MPS computes here")


def test_auto_does_not_take_mps_that_only_seems_to_be_there(
    on_a_mac: None,
) -> None:
    def no_emulation() -> Device:
        raise UnsupportedInstallError("Not on macOS.", "")

    device, choice = choose(
        "auto", MAC, lambda _: Probe(Status.TIMEOUT, "mps hung.", "Restart."), no_emulation
    )
    assert device.name == "cpu"
    assert choice.reason == "mps hung. Not on macOS."


def test_off_a_mac_the_virtual_device_is_taken_before_the_cpu() -> None:
    device, choice = choose("auto", LINUX, emulated=Cpu)
    assert (device.name, choice.used) == ("cpu", "emulated")
    assert "MPS needs a Mac" in choice.reason


def test_what_is_assumed_of_the_target_mac_is_said() -> None:
    named = Mac("2.8", macos="14.4", chip="Apple M2", memory_gb=16)
    unnamed = choose("emulated", LINUX, emulated=lambda: Emulated(Mac("2.8")))[1]
    assert unnamed.reason == "asked for; macOS 15.5 and 64 GB assumed"
    assert choose("emulated", LINUX, emulated=lambda: Emulated(named))[1].reason == "asked for"
    off_a_mac = choose("auto", LINUX, emulated=lambda: Emulated(Mac("2.8", macos="14.4")))[1]
    assert off_a_mac.reason.endswith("; 64 GB assumed")


def test_mps_that_fails_is_an_error_with_why_and_mend(on_a_mac: None) -> None:
    with pytest.raises(DeviceUnavailableError) as caught:
        choose("mps", RUNNER, lambda _: Probe(Status.FAIL, "0 bytes.", "Use macos-15."))
    assert (caught.value.what, caught.value.hint) == ("0 bytes.", "Use macos-15.")


def test_off_a_mac_nothing_is_tried() -> None:
    def never(name: str) -> Probe:
        raise AssertionError(name)

    with pytest.raises(DeviceUnavailableError, match="MPS needs a Mac"):
        choose("mps", LINUX, never)
    _, choice = choose("auto", LINUX, never)
    assert choice.used != "mps"
    assert "Linux" in choice.reason


def test_cpu_is_measured_on_the_cpu() -> None:
    device, choice = choose("cpu", LINUX)
    assert (device.name, device.evidence, choice.used) == ("cpu", Evidence.MEASURED, "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_not_there() -> None:
    with pytest.raises(DeviceUnavailableError, match="no CUDA device"):
        choose("cuda", LINUX)


def test_a_device_nobody_knows() -> None:
    with pytest.raises(UsageError) as caught:
        choose("tpu", LINUX)
    assert "mps" in caught.value.hint
    assert caught.value.exit_code == 2


def test_the_child_really_computes() -> None:
    outcome = probe_device("cpu")
    assert outcome.status is Status.PASS
    assert "error" in outcome.reason


def planted(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_an_abort_names_its_signal() -> None:
    code = "import os, sys; sys.stderr.write('failed assertion `x`'); sys.stderr.flush(); os.abort()"
    outcome = probe_device("mps", command=planted(code))
    assert outcome.status is Status.CRASHED
    assert signal.SIGABRT.name in outcome.reason
    assert "failed assertion" in outcome.output


def test_a_hang_ends_at_the_limit() -> None:
    code = "import sys, time; sys.stderr.write('waiting'); sys.stderr.flush(); time.sleep(600)"
    outcome = probe_device("mps", limit=1.0, command=planted(code))
    assert outcome.status is Status.TIMEOUT
    assert "1 s" in outcome.reason
    assert outcome.output == "waiting"


@pytest.mark.parametrize("error", [0.5, float("nan")])
def test_a_wrong_product_is_no_pass(error: float) -> None:
    code = f"import json; print(json.dumps({{'error': float('{error}'), 'tolerance': 1e-6}}))"
    outcome = probe_device("mps", command=planted(code))
    assert outcome.status is Status.FAIL
    assert "wrong" in outcome.reason


def test_a_silent_fault_of_the_gpu_is_no_pass() -> None:
    code = (
        "import sys; sys.stderr.write('Error: command buffer exited with error status.\\n')\n"
        'print(\'{"error": 0.0, "tolerance": 1e-6}\')'
    )
    outcome = probe_device("mps", command=planted(code))
    assert outcome.status is Status.FAIL
    assert "fault of the GPU" in outcome.reason


@pytest.mark.parametrize("code", ["pass", "print('hello')", "print('[1]')", "print('{}')"])
def test_a_child_without_an_answer_is_our_error(code: str) -> None:
    assert probe_device("mps", command=planted(code)).status is Status.ERROR


@pytest.mark.parametrize("text", NOTHING_FREE)
def test_the_first_allocation_of_a_ci_runner_is_recognised(text: str) -> None:
    outcome = probe_device("mps", command=planted(f"raise SystemExit({text!r})"))
    assert outcome.status is Status.FAIL
    assert "virtual GPU of a CI runner" in outcome.reason
    assert "macos-15" in outcome.remedy


def test_a_capped_gpu_is_another_case() -> None:
    what, remedy = explain_failure("mps", CAPPED)
    assert "0 bytes" not in what
    assert "1 GB" in remedy


def test_an_unknown_error_is_quoted() -> None:
    what, _ = explain_failure("mps", "Traceback ...\nRuntimeError: something new\n")
    assert "RuntimeError: something new" in what


def test_a_silent_failure_still_says_something() -> None:
    assert "no message" in explain_failure("mps", "")[0]


def test_only_a_real_mac_has_no_limits() -> None:
    assert limits(DeviceChoice("auto", "mps", ""), MAC) == []
    (sentence,) = limits(DeviceChoice("auto", "mps", ""), RUNNER)
    assert "virtual GPU, not evidence for real Macs" in sentence
    for used in ("cpu", "cuda", "emulated"):
        (sentence,) = limits(DeviceChoice("auto", used, ""), LINUX)
        assert "says nothing" in sentence


def test_the_self_test_of_prediction_passes_here() -> None:
    outcome = probe_prediction()
    assert outcome.status is Status.PASS
    assert "TB" in outcome.reason


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("import os; os.abort()", Status.CRASHED),
        ("raise SystemExit('no')", Status.FAIL),
        ("pass", Status.ERROR),
        ("import time; time.sleep(60)", Status.TIMEOUT),
        ('print(\'{"has_mps": true, "peak": 1, "touched": 9, "wrong": "9 bytes."}\')', Status.FAIL),
    ],
)
def test_a_self_test_that_fails_advises_docker(code: str, status: Status) -> None:
    outcome = probe_prediction(limit=3.0, command=planted(code))
    assert outcome.status is status
    assert "docker run" in outcome.remedy


def test_the_self_test_runs_no_file_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("open('planted', 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    select.probe_prediction()
    assert not (tmp_path / "planted").exists()
