"""`mpsprobe doctor` on machines of all kinds."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mpsprobe import mac
from mpsprobe.cli import cli
from mpsprobe.cli import machine as doctor
from mpsprobe.device.select import Probe
from mpsprobe.mac.unavailable import TorchFacts, Unavailability
from mpsprobe.run import Host, Status

LINUX = Host(
    system="Linux",
    machine="x86_64",
    os_version="6.8.0",
    chip="Intel(R) Xeon(R) Processor",
    cpu_cores=2,
    memory_bytes=24 * 2**30,
    container="docker",
    python="3.11.7",
    packages={"torch": "2.13.0+cpu"},
)
MAC = Host(
    system="Darwin",
    machine="arm64",
    os_version="15.5",
    chip="Apple M3",
    cpu_cores=8,
    gpu="Apple M3",
    gpu_cores=10,
    memory_bytes=16 * 2**30,
    python="3.12.4",
    packages={"torch": "2.13.0"},
)


def ask(monkeypatch: pytest.MonkeyPatch, host: Host, *arguments: str) -> Result:
    monkeypatch.setattr(mac, "host", lambda: host)
    return CliRunner().invoke(cli, ["doctor", *arguments])


def a_mac(
    monkeypatch: pytest.MonkeyPatch, torch: TorchFacts, unavailable: Unavailability | None = None
) -> None:
    monkeypatch.setattr(doctor, "torch_facts", lambda: torch)
    monkeypatch.setattr(doctor, "_tried", lambda _: unavailable)
    monkeypatch.setattr(doctor, "_limit_of_torch", lambda: 11453246464)
    monkeypatch.setattr(doctor, "_self_test", lambda: Probe(Status.PASS, "A model was predicted."))


def test_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    result = ask(monkeypatch, LINUX)
    assert result.exit_code == 1
    assert "Linux 6.8.0 on x86_64, inside docker" in result.output
    assert "MPS does not compute here: This is Linux" in result.output
    assert "What to do:" in result.output


def test_json_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    result = ask(monkeypatch, LINUX, "--json")
    answer: dict[str, Any] = json.loads(result.output)
    assert result.exit_code == 1
    assert (answer["computes"], answer["cause"]) == (False, "no-mac")
    assert answer["host"]["container"] == "docker"
    assert answer["working_set_bytes"] is None


def test_quiet_leaves_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mac, "host", lambda: LINUX)
    result = CliRunner().invoke(cli, ["--quiet", "doctor"])
    assert (result.exit_code, result.output) == (1, "")


def test_a_mac_that_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    a_mac(monkeypatch, TorchFacts("2.13.0", built=True, available=True))
    result = ask(monkeypatch, MAC)
    assert result.exit_code == 0
    assert "MPS computes here: Apple M3 multiplies matrices rightly." in result.output
    assert "at most 10.67 GiB (measured)" in result.output
    assert "What to do" not in result.output


def test_a_mac_whose_mps_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Unavailability("does-not-compute", "mps hung.", "Restart the Mac.")
    a_mac(monkeypatch, TorchFacts("2.13.0", built=True, available=True), broken)
    result = ask(monkeypatch, MAC)
    assert result.exit_code == 1
    assert "MPS does not compute here: mps hung." in result.output
    assert "Restart the Mac." in result.output


def test_a_mac_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    a_mac(monkeypatch, TorchFacts(None))
    host = Host(**{**{name: getattr(MAC, name) for name in MAC.__struct_fields__}, "packages": {}})
    result = ask(monkeypatch, host)
    assert result.exit_code == 1
    assert "torch is not installed" in result.output
    assert "pip install torch" in result.output
    # 2/3 of 16 GB: ise-uiuc/magicoder issue 19.
    assert "at most 10.67 GiB (predicted)" in result.output


def test_facts_that_a_mac_does_not_tell_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    a_mac(monkeypatch, TorchFacts("2.13.0", built=True))
    nothing = {"gpu": None, "gpu_cores": None, "memory_bytes": None}
    fields = {name: getattr(MAC, name) for name in MAC.__struct_fields__}
    result = ask(monkeypatch, Host(**{**fields, **nothing}), "--json")
    assert json.loads(result.output)["working_set_bytes"] is None
    assert "GPU" in (text := ask(monkeypatch, Host(**{**fields, **nothing})).output)
    assert "unknown" in text
    wired = ask(monkeypatch, Host(**{**fields, "working_set_bytes": 12 * 2**30}), "--json")
    answer = json.loads(wired.output)
    assert (answer["working_set_bytes"], answer["working_set_evidence"]) == (12 * 2**30, "measured")


def test_a_virtual_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    a_mac(monkeypatch, TorchFacts("2.14.0", built=True, available=True))
    changes = {"gpu": "Apple Paravirtual device", "gpu_cores": None, "virtual_gpu": True}
    host = Host(**{**{name: getattr(MAC, name) for name in MAC.__struct_fields__}, **changes})
    result = ask(monkeypatch, host)
    assert result.exit_code == 0
    assert "Apple Paravirtual device, virtual" in result.output
    assert "not evidence for real Macs" in result.output


def test_variables_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_MPS_HIGH_WATERMARK_RATIO", "0.7")
    result = ask(monkeypatch, LINUX)
    assert "invalid low watermark ratio" in result.output


@pytest.mark.parametrize("arguments", [["doctor"], ["doctor", "--json"]])
def test_it_works_where_torch_cannot_be_imported(arguments: list[str]) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['mpsprobe', *sys.argv[1:]]\n"
        "from mpsprobe.cli import main; main()"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(path for path in sys.path if path), "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert child.stderr == ""
    assert child.returncode in (0, 1)
    assert "computes" in child.stdout or "compute here" in child.stdout


def test_a_failed_self_test_advises_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    a_mac(monkeypatch, TorchFacts("2.13.0", built=True, available=True))
    failed = Probe(Status.CRASHED, "The self-test of prediction was ended by SIGSEGV.", "docker run ...")
    monkeypatch.setattr(doctor, "_self_test", lambda: failed)
    result = ask(monkeypatch, MAC)
    assert "Prediction fails here: The self-test of prediction was ended by SIGSEGV." in result.output
    assert "docker run" in result.output
