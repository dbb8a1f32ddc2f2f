"""Phase 1 on machines of all kinds: their facts are given, the arithmetic is done here."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from packaging.requirements import Requirement

from mpsprobe.device.real import Cpu, MemoryReading
from mpsprobe.device.select import DeviceUnavailableError
from mpsprobe.device.self_test import Product
from mpsprobe.mac.unavailable import TorchFacts, Unavailability, why_no_mps
from mpsprobe.options import Settings
from mpsprobe.phases import availability, site
from mpsprobe.phases.check import LinkFailed, Result
from mpsprobe.phases.site import Availability, open_site
from mpsprobe.run import DeviceChoice, Evidence, Host, Mac, Phase, Status

LINUX = Host(system="Linux", machine="x86_64", os_version="6.8.0", chip="Xeon", memory_bytes=24 * 2**30)
MAC = Host(
    system="Darwin",
    machine="arm64",
    os_version="15.5",
    chip="Apple M1 Max",
    gpu="Apple M1 Max",
    gpu_cores=32,
    memory_bytes=64 * 2**30,
)
HIGH = "PYTORCH_MPS_HIGH_WATERMARK_RATIO"


class FakeMps(Cpu):
    """Says that it is the GPU of a Mac with 64 GB; computes on the CPU."""

    name = "mps"

    def memory(self) -> MemoryReading:
        return MemoryReading(allocated=0, driver=0, limit=51539607552)


def mac_site(**changes: Any) -> Availability:
    """A Mac on which MPS computes."""
    base = Availability(
        host=MAC,
        mac=Mac("2.13.0", "15.5", "Apple M1 Max"),
        choice=DeviceChoice("auto", "mps", "MPS computes here"),
        limits=[],
        found=FakeMps(),
        unavailable=None,
        no_mps=None,
        torch=TorchFacts("2.13.0", built=True, available=True),
        env={},
        env_at_start={},
    )
    return replace(base, **changes)


def host(**changes: Any) -> Host:
    return Host(**{**{name: getattr(MAC, name) for name in MAC.__struct_fields__}, **changes})


def without_mps(requested: str, machine: Host, torch: TorchFacts) -> Availability:
    """A machine where MPS is not to be had."""
    no_mps = why_no_mps(machine, torch)
    assert no_mps is not None
    asked = requested == "mps"
    return mac_site(
        host=machine,
        choice=DeviceChoice(requested, "mps" if asked else "cpu", no_mps.what),
        found=None if asked else Cpu(),
        unavailable=DeviceUnavailableError(no_mps.what, no_mps.remedy) if asked else None,
        no_mps=no_mps,
        torch=torch,
    )


def results(at: Availability) -> dict[str, Result]:
    return {spec.name: spec(at) for spec in availability.CHECKS}


def test_the_checks_have_unique_ids() -> None:
    ids = [spec.id for spec in availability.CHECKS]
    assert len(ids) == len(set(ids))
    assert ids[0] == "availability.device"
    assert all(id_.startswith("availability.") for id_ in ids)


def test_a_good_mac_passes_everything() -> None:
    found = results(mac_site())
    assert {name: result.status for name, result in found.items()} == dict.fromkeys(found, Status.PASS)
    assert all(result.evidence is Evidence.MEASURED for result in found.values())
    assert found["machine"].message == "Apple M1 Max, 32 GPU cores, 64 GiB, macOS 15.5."
    assert found["working-set"].measurements[0].value == 51539607552
    assert found["compute.float16"].device == "mps"


def test_linux_skips_what_is_about_macs_and_computes_on_the_cpu() -> None:
    with open_site(Settings(device="cpu"), LINUX) as opened:
        found = results(opened)
    skipped = {name for name, result in found.items() if result.status is Status.SKIPPED}
    assert skipped == {"machine", "macos", "built", "available", "virtual-gpu", "working-set"}
    assert all(found[name].evidence is None and found[name].message for name in skipped)
    for dtype in ("float32", "float16", "bfloat16"):
        result = found[f"compute.{dtype}"]
        assert (result.status, result.device, result.evidence) == (Status.PASS, "cpu", Evidence.MEASURED)
    assert opened.limits


def test_mps_asked_for_on_linux_fails_with_why_and_mend() -> None:
    with open_site(Settings(device="mps"), LINUX) as opened:
        found = results(opened)
        with pytest.raises(LinkFailed) as caught:
            _ = opened.device
    assert caught.value.phase is Phase.AVAILABILITY
    assert caught.value.result.status is Status.FAIL
    for name in ("device", "machine", "available"):
        assert found[name].status is Status.FAIL
        assert found[name].remedy
    assert "MPS needs a Mac" in found["available"].message
    assert found["compute.float32"].status is Status.BLOCKED
    assert found["compute.float32"].blocked_by is Phase.AVAILABILITY


def test_a_sandboxed_mac_warns_when_nothing_was_asked_for() -> None:
    torch = TorchFacts("2.13.0", built=True, available=False)
    found = results(without_mps("auto", host(container="sandbox"), torch))
    assert found["machine"].status is Status.PASS
    assert found["built"].status is Status.PASS
    assert found["available"].status is Status.WARN
    assert "Terminal" in found["available"].remedy
    assert found["compute.float32"].device == "cpu"


def test_an_intel_mac_says_so_once() -> None:
    machine = host(machine="x86_64", chip="Intel(R) Core(TM) i9", gpu="Radeon", gpu_cores=None)
    found = results(without_mps("mps", machine, TorchFacts("2.2.2", built=True, available=False)))
    assert "Intel" in found["machine"].message
    assert found["machine"].remedy
    assert found["available"].status is Status.FAIL
    assert found["torch"].status is Status.FAIL  # 2.2.2 is below what mpsprobe supports


def test_a_mac_that_is_too_old() -> None:
    found = results(without_mps("mps", host(os_version="13.7.4"), TorchFacts("2.9.0", built=True)))
    assert found["macos"].status is Status.FAIL
    assert "14.0" in found["macos"].message
    assert found["macos"].remedy


def test_an_unknown_macos_is_not_judged() -> None:
    at = mac_site(host=host(os_version="unknown"), found=Cpu(), choice=DeviceChoice("cpu", "cpu", ""))
    found = results(at)
    assert found["working-set"].evidence is Evidence.PREDICTED
    assert found["macos"].status is Status.UNKNOWN
    assert found["macos"].evidence is None


def test_a_torch_without_mps() -> None:
    found = results(without_mps("mps", MAC, TorchFacts("2.13.0")))
    assert found["built"].status is Status.FAIL
    assert "pip install" in found["built"].remedy


def test_rosetta_warns_even_where_torch_finds_a_device() -> None:
    assert results(mac_site(host=host(rosetta=True)))["machine"].status is Status.WARN


def test_a_virtual_gpu_warns() -> None:
    found = results(mac_site(host=host(gpu="Apple Paravirtual device", gpu_cores=None, virtual_gpu=True)))
    assert found["virtual-gpu"].status is Status.WARN
    assert "not evidence for real Macs" in found["virtual-gpu"].message


def test_mps_not_tried_is_unknown() -> None:
    at = mac_site(choice=DeviceChoice("cpu", "cpu", "asked for"), found=Cpu())
    assert results(at)["available"].status is Status.UNKNOWN


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("2.13.0", Status.PASS),
        ("2.13.0+cpu", Status.PASS),
        ("2.3.1", Status.FAIL),
        ("2.14.0.dev20260801", Status.WARN),
        ("9.0.0", Status.WARN),
        (None, Status.FAIL),
    ],
)
def test_torch_releases(version: str | None, status: Status) -> None:
    result = results(mac_site(torch=TorchFacts(version, built=True, available=True)))["torch"]
    assert result.status is status
    assert bool(result.remedy) is (status is Status.FAIL or version == "9.0.0")


def test_a_working_set_nobody_measured_is_predicted() -> None:
    at = mac_site(choice=DeviceChoice("cpu", "cpu", ""), found=Cpu())
    result = results(at)["working-set"]
    assert result.evidence is Evidence.PREDICTED
    assert result.measurements[0].value == 48 * 2**30  # llama.cpp issue 1870: 49152 MiB of 64 GB
    wired = mac_site(choice=DeviceChoice("cpu", "cpu", ""), found=Cpu(), host=host(working_set_bytes=2**35))
    assert results(wired)["working-set"].evidence is Evidence.MEASURED


def test_a_working_set_that_nothing_tells_is_unknown() -> None:
    at = mac_site(choice=DeviceChoice("cpu", "cpu", ""), found=Cpu(), host=host(memory_bytes=None))
    assert results(at)["working-set"].status is Status.UNKNOWN


def test_the_empty_gpu_of_a_ci_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Product:
        raise RuntimeError(
            "MPS backend out of memory (MPS allocated: 0 bytes, other allocations: 0 bytes, max allowed: "
            "7.93 GB). Tried to allocate 256 bytes on private pool."
        )

    monkeypatch.setattr(availability, "multiply", refuse)
    found = results(mac_site())
    assert found["compute.float32"].status is Status.FAIL
    assert "CI runner" in found["compute.float32"].message
    assert "private pool" in found["compute.float32"].output


def test_a_dtype_the_device_lacks_fails_only_where_all_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def old_macos(*_: Any) -> Product:
        raise RuntimeError("MPS BFloat16 is only supported on MacOS 14 or newer")

    monkeypatch.setattr(availability, "multiply", old_macos)
    found = results(mac_site())
    assert found["compute.bfloat16"].status is Status.WARN
    assert "MacOS 14" in found["compute.bfloat16"].message


@pytest.mark.parametrize("error", [0.5, math.nan])
def test_a_wrong_product_fails(monkeypatch: pytest.MonkeyPatch, error: float) -> None:
    monkeypatch.setattr(availability, "multiply", lambda *_: Product(error, 1e-6))
    assert results(mac_site())["compute.bfloat16"].status is Status.FAIL


def test_a_legal_environment_names_what_is_set() -> None:
    env = {HIGH: "1.5", "PYTORCH_MPS_LOW_WATERMARK_RATIO": "1.0"}
    result = results(mac_site(env=env, env_at_start=env))["environment"]
    assert result.status is Status.PASS
    assert HIGH in result.message


def test_a_high_watermark_below_the_low_one_fails() -> None:
    env = {HIGH: "0.7"}
    result = results(mac_site(env=env, env_at_start=env))["environment"]
    assert result.status is Status.FAIL
    assert result.table is not None
    assert result.table.rows[0][0] == HIGH
    with open_site(Settings(device="cpu"), LINUX) as opened:
        result = results(replace(opened, env=env, env_at_start=env))["environment"]
    assert result.status is Status.WARN


@pytest.mark.parametrize(
    ("now", "then", "word"),
    [
        ({HIGH: "1.5"}, {}, "was set"),
        ({}, {HIGH: "1.5"}, "was unset"),
        ({HIGH: "1.5"}, {HIGH: "1.6"}, "'1.6'"),
    ],
)
def test_a_variable_changed_by_the_process_itself_warns(
    now: dict[str, str], then: dict[str, str], word: str
) -> None:
    result = results(mac_site(env=now, env_at_start=then))["environment"]
    assert result.status is Status.WARN
    assert word in result.message
    assert "shell" in result.remedy


def test_an_unknown_start_is_said() -> None:
    env = {"PYTORCH_ENABLE_MPS_FALLBACK": "1"}
    result = results(mac_site(env=env, env_at_start=None))["environment"]
    assert result.status is Status.PASS
    assert "not known" in result.message


def test_what_only_torch_can_tell_is_added_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeMps()
    device.gpu = "Apple M1 Max"
    monkeypatch.setattr(site, "choose", lambda *_, **__: (device, DeviceChoice("auto", "mps", "")))
    monkeypatch.setattr(site, "why_mps_unavailable", lambda _: None)
    with open_site(Settings(), host(gpu=None)) as opened:
        assert opened.host.gpu == "Apple M1 Max"
        assert opened.host.working_set_bytes == 51539607552


def test_a_mac_that_does_not_compute_is_reported_by_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Unavailability("does-not-compute", "mps hung.", "Restart the Mac.")
    monkeypatch.setattr(site, "choose", lambda *_, **__: (Cpu(), DeviceChoice("auto", "cpu", broken.what)))
    monkeypatch.setattr(site, "why_mps_unavailable", lambda _: broken)
    monkeypatch.setattr(site, "torch_facts", lambda: TorchFacts("2.13.0", built=True, available=True))
    with open_site(Settings(), MAC) as opened:
        found = results(opened)
    assert found["available"].status is Status.WARN
    assert (found["available"].message, found["available"].remedy) == ("mps hung.", "Restart the Mac.")


def test_the_least_torch_is_the_one_that_the_package_requires() -> None:
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    project = msgspec.toml.decode(pyproject.read_bytes())["project"]
    (required,) = [one for one in map(Requirement, project["dependencies"]) if one.name == "torch"]
    assert [one.version for one in required.specifier if one.operator == ">="] == [availability.LEAST_TORCH]
