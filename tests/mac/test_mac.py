"""Facts of machines, replayed from what real ones answered. Each recording names where it was read."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

import psutil
import pytest

from mpsprobe import mac
from mpsprobe.errors import UsageError
from mpsprobe.mac.unavailable import TorchFacts, why_no_mps
from mpsprobe.run import Host

SYSCTL, PROFILER, IOREG, SW_VERS = (
    "/usr/sbin/sysctl",
    "/usr/sbin/system_profiler",
    "/usr/sbin/ioreg",
    "/usr/bin/sw_vers",
)


@dataclass
class Recorded:
    """A `mac.System` that answers from a recording, by the name of the command."""

    outputs: dict[str, str] = field(default_factory=dict)
    system: str = "Darwin"
    machine: str = "arm64"
    release: str = "24.5.0"
    environ: Mapping[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    confined: bool | None = False

    def output(self, *command: str, timeout: float = 5.0) -> str:
        return self.outputs.get(command[0], "")

    def text(self, path: str) -> str:
        return self.files.get(path, "")

    def exists(self, path: str) -> bool:
        return path in self.files

    def sandboxed(self) -> bool | None:
        return self.confined

    def memory(self) -> int:
        return 8 * 2**30


#: system_profiler of an M1 of 2020 with 7 GPU cores; displays left out.
#: github search "sppci_cores" : "7": a comment in a monitor tool's Go source.
M1_DISPLAYS = """{
  "SPDisplaysDataType" : [
    {
      "_name" : "Apple M1",
      "spdisplays_mtlgpufamilysupport" : "spdisplays_metal3",
      "spdisplays_ndrvs" : [ { "_name" : "Color LCD", "_spdisplays_pixels" : "3360 x 2100" } ],
      "spdisplays_vendor" : "sppci_vendor_Apple",
      "sppci_bus" : "spdisplays_builtin",
      "sppci_cores" : "7",
      "sppci_device_type" : "spdisplays_gpu",
      "sppci_model" : "Apple M1"
    }
  ]
}"""

#: The same of macOS 11, where _name is a key of a strings table and cores are not told: exelban/stats issue 394.
M1_BIG_SUR_DISPLAYS = """{
  "SPDisplaysDataType" : [
    {
      "_name" : "kHW_AppleM1Item",
      "spdisplays_metalfamily" : "spdisplays_mtlgpufamilyapple7",
      "spdisplays_vendor" : "sppci_vendor_Apple",
      "sppci_model" : "Apple M1"
    }
  ]
}"""

#: An Intel MacBook Pro: duanefields/VirtualKVM issue 50 (there as a property list).
INTEL_DISPLAYS = """{
  "SPDisplaysDataType" : [
    {
      "_name" : "kHW_IntelIris6100Item",
      "spdisplays_metal" : "spdisplays_metalfeaturesetfamily13",
      "spdisplays_vendor" : "Intel",
      "sppci_bus" : "spdisplays_builtin",
      "sppci_model" : "Intel Iris Graphics 6100"
    }
  ]
}"""

#: ioreg of an M3 Pro with 14 GPU cores, shortened: a test of a system monitor
#: ("parseIoregGpu"); the command line is that of exelban/stats issue 1094.
M3_PRO_IOREG = """+-o AGXAcceleratorG15X  <class AGXAcceleratorG15X>
    {
      "model" = "Apple M3 Pro"
      "gpu-core-count" = 14
    }
"""

#: GitHub's macos runners: names from yorickdowne/get-macos-runner-hardware PR 1 (2026-09-21),
#: memory from VeloxQuant-MLX issue 395.
RUNNER_SYSCTL = """machdep.cpu.brand_string: Apple M1 (Virtual)
hw.memsize: 7516192768
hw.logicalcpu: 3
hw.model: VirtualMac2,1
hw.optional.arm64: 1
kern.hv_vmm_present: 1
"""

#: A virtual machine's adapter tells no cores (as text in a model runner's tests, "PARAVIRTUAL").
RUNNER_DISPLAYS = """{
  "SPDisplaysDataType" : [
    {
      "_name" : "Apple Paravirtual device",
      "spdisplays_vendor" : "sppci_vendor_Apple",
      "sppci_bus" : "spdisplays_builtin",
      "sppci_model" : "Apple Paravirtual device"
    }
  ]
}"""


def apple(brand: str, memory: int, *more: str) -> str:
    """sysctl's answer in its form `name: value`."""
    lines = [f"machdep.cpu.brand_string: {brand}", f"hw.memsize: {memory}", "hw.optional.arm64: 1", *more]
    return "\n".join(lines) + "\n"


def test_an_m1_is_read() -> None:
    runner = Recorded(
        {
            SYSCTL: apple("Apple M1", 17179869184, "hw.logicalcpu: 8", "iogpu.wired_limit_mb: 0"),
            PROFILER: M1_DISPLAYS,
            SW_VERS: "15.5\n",
        }
    )
    host = mac.host(runner)
    assert (host.system, host.machine, host.os_version) == ("Darwin", "arm64", "15.5")
    assert (host.chip, host.gpu, host.gpu_cores, host.cpu_cores) == ("Apple M1", "Apple M1", 7, 8)
    assert host.memory_bytes == 16 * 2**30
    assert host.working_set_bytes is None  # 0 means that the owner has set nothing
    assert not host.virtual_gpu
    assert not host.rosetta
    assert host.container is None


def test_the_key_of_a_strings_table_is_no_name() -> None:
    host = mac.host(Recorded({SYSCTL: apple("Apple M1", 8 * 2**30), PROFILER: M1_BIG_SUR_DISPLAYS}))
    assert host.gpu == "Apple M1"
    assert host.gpu_cores is None


@pytest.mark.parametrize("broken", ["", "not json", "[]", '{"SPDisplaysDataType": []}'])
def test_iokit_stands_in_for_system_profiler(broken: str) -> None:
    outputs = {SYSCTL: apple("Apple M3 Pro", 18 * 2**30), PROFILER: broken, IOREG: M3_PRO_IOREG}
    host = mac.host(Recorded(outputs))
    assert (host.gpu, host.gpu_cores) == ("Apple M3 Pro", 14)


def test_iokit_tells_a_virtual_gpu_without_a_name() -> None:
    tree = "+-o AppleParavirtGPU  <class AppleParavirtGPU, id 0x100000211, registered, matched, active>"
    host = mac.host(Recorded({SYSCTL: apple("Apple M1 (Virtual)", 7 * 2**30), PROFILER: "", IOREG: tree}))
    assert (host.gpu, host.gpu_cores, host.virtual_gpu) == ("Apple Paravirtual device", None, True)


def test_a_runner_of_github_has_a_virtual_gpu() -> None:
    host = mac.host(Recorded({SYSCTL: RUNNER_SYSCTL, PROFILER: RUNNER_DISPLAYS, SW_VERS: "15.5\n"}))
    assert host.virtual_gpu
    assert host.gpu == "Apple Paravirtual device"
    assert host.gpu_cores is None
    assert host.memory_bytes == 7 * 2**30


def test_rosetta_is_told_from_the_hardware() -> None:
    # pytorch issue 146236: an x86-64 conda Python on an Apple M2 Pro with macOS 15.3 is told macOS 10.16.
    runner = Recorded(
        {SYSCTL: apple("Apple M2 Pro", 16 * 2**30, "sysctl.proc_translated: 1"), SW_VERS: "10.16\n"},
        machine="x86_64",
        release="24.3.0",
    )
    host = mac.host(runner)
    assert host.rosetta
    assert host.machine == "arm64"
    assert host.os_version == "15"  # from Darwin 24: the minor release is not known
    assert host.chip == "Apple M2 Pro"


def test_rosetta_is_seen_where_sysctl_itself_runs_natively() -> None:
    # Comfy-Org/comfy-cli PR 568: sysctl answers for its own process.
    runner = Recorded(
        {SYSCTL: apple("Apple M3 Max", 64 * 2**30, "sysctl.proc_translated: 0")}, machine="x86_64"
    )
    assert mac.host(runner).rosetta


def test_an_intel_mac_is_no_rosetta() -> None:
    brand = "Intel(R) Core(TM) i7-5557U CPU @ 3.10GHz"
    runner = Recorded(
        {SYSCTL: f"machdep.cpu.brand_string: {brand}\nhw.memsize: 17179869184\n", PROFILER: INTEL_DISPLAYS},
        machine="x86_64",
    )
    host = mac.host(runner)
    assert (host.machine, host.rosetta, host.virtual_gpu) == ("x86_64", False, False)
    assert host.gpu == "Intel Iris Graphics 6100"


def test_a_wired_limit_is_the_working_set() -> None:
    # github.com/antirez/ds4/pull/893: 114688 MB makes Metal recommend 112.00 GiB.
    sysctl = apple("Apple M5 Max", 128 * 2**30, "iogpu.wired_limit_mb: 114688")
    assert mac.host(Recorded({SYSCTL: sysctl})).working_set_bytes == 112 * 2**30


@pytest.mark.parametrize(
    ("environ", "confined", "expected"),
    [
        ({"CODEX_SANDBOX": "seatbelt"}, True, "codex sandbox (seatbelt)"),
        ({"APP_SANDBOX_CONTAINER_ID": "com.example.app"}, None, "sandbox"),
        ({}, True, "sandbox"),
        ({}, False, None),
        ({}, None, None),
    ],
)
def test_a_sandbox_is_recognised(
    environ: dict[str, str], confined: bool | None, expected: str | None
) -> None:
    assert mac.host(Recorded(environ=environ, confined=confined)).container == expected


@pytest.mark.parametrize(
    ("files", "environ", "expected"),
    [
        ({"/.dockerenv": ""}, {}, "docker"),
        ({"/run/.containerenv": ""}, {}, "podman"),
        ({}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "kubernetes"),
        ({}, {"container": "lxc"}, "lxc"),
        ({"/proc/1/cgroup": "0::/kubepods/besteffort/pod1\n"}, {}, "kubepods"),
        ({"/proc/1/cgroup": "0::/init.scope\n"}, {}, None),
    ],
)
def test_a_container_is_recognised(
    files: dict[str, str], environ: dict[str, str], expected: str | None
) -> None:
    runner = Recorded(system="Linux", machine="x86_64", files=files, environ=environ)
    assert mac.host(runner).container == expected


def test_linux_on_an_apple_chip_is_recognised() -> None:
    # /proc/cpuinfo of Fedora in a virtual machine on an M3 Max: Dr-Noob/cpufetch issue 229.
    cpuinfo = (
        "processor\t: 0\nBogoMIPS\t: 48.00\nCPU implementer\t: 0x61\nCPU architecture: 8\nCPU part\t: 0x000\n"
    )
    files = {"/proc/cpuinfo": cpuinfo, "/.dockerenv": ""}
    host = mac.host(Recorded(system="Linux", machine="aarch64", release="6.8.0", files=files))
    assert host.chip == "Apple (virtual machine)"
    unavailable = why_no_mps(host, TorchFacts("2.13.0"))
    assert unavailable is not None
    assert "outside of the container" in unavailable.remedy


def test_a_machine_that_answers_nothing_leaves_facts_open() -> None:
    host = mac.host(Recorded(release="99.0.0"))
    assert (host.chip, host.gpu, host.gpu_cores, host.cpu_cores) == (None, None, None, None)
    assert host.os_version == "unknown"
    assert host.memory_bytes == 8 * 2**30


def test_this_machine_is_read() -> None:
    host = mac.host()
    assert host.memory_bytes == psutil.virtual_memory().total
    assert "torch" in host.packages


MAC = Host(system="Darwin", machine="arm64", os_version="15.5", chip="Apple M3")
FOUND = TorchFacts("2.13.0", built=True, available=False)


@pytest.mark.parametrize(
    ("cause", "changes", "torch"),
    [
        ("no-mac", {"system": "Linux", "machine": "x86_64"}, FOUND),
        # A virtual device may answer for torch: off a Mac that proves nothing.
        ("no-mac", {"system": "Linux", "machine": "x86_64"}, TorchFacts("2.13.0", True, True)),
        ("intel", {"machine": "x86_64", "chip": "Intel(R) Core(TM) i9"}, TorchFacts("2.2.2", True, False)),
        ("rosetta", {"rosetta": True}, TorchFacts(None)),
        ("no-torch", {}, TorchFacts(None)),
        ("no-torch", {}, TorchFacts(None, broken="dlopen(libtorch.dylib): incompatible architecture")),
        ("not-built", {}, TorchFacts("2.13.0", built=False)),
        ("macos", {"os_version": "13.7.4"}, TorchFacts("2.9.0", built=True)),  # pytorch issue 164943
        ("sandbox", {"container": "codex sandbox (seatbelt)"}, FOUND),  # openai/codex issue 10199
        ("virtual-gpu", {"virtual_gpu": True}, FOUND),  # pytorch PR 112265
        ("no-device", {"os_version": "26.3.1"}, TorchFacts("2.10.0", built=True)),  # pytorch issue 177819
        ("no-device", {"os_version": "unknown"}, FOUND),
    ],
)
def test_each_cause_is_told_apart(cause: str, changes: dict[str, object], torch: TorchFacts) -> None:
    host = Host(**{**{name: getattr(MAC, name) for name in MAC.__struct_fields__}, **changes})
    unavailable = why_no_mps(host, torch)
    assert unavailable is not None
    assert unavailable.cause == cause
    assert unavailable.what
    assert unavailable.remedy


def test_a_mac_with_a_device_has_no_obstacle() -> None:
    assert why_no_mps(MAC, TorchFacts("2.13.0", built=True, available=True)) is None


def test_a_broken_torch_is_quoted() -> None:
    unavailable = why_no_mps(MAC, TorchFacts(None, broken="dlopen: incompatible architecture"))
    assert unavailable is not None
    assert "incompatible architecture" in unavailable.what


def test_the_start_of_a_process_is_told_from_what_it_set_later() -> None:
    code = (
        "import os; os.environ['LATE'] = '1'; os.environ['EARLY'] = 'changed'\n"
        "from mpsprobe.mac import environment_at_start as start\n"
        "print(start()['EARLY'], 'LATE' in start())"
    )
    env = {"EARLY": "yes", "PYTHONPATH": ":".join(path for path in sys.path if path), "PATH": "/usr/bin:/bin"}
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert child.stdout.split() == ["yes", "False"]


def test_a_named_mac() -> None:
    asked = mac.named("m1-max-64")
    assert (asked.name, asked.chip, asked.gpu_cores) == ("m1-max-64", "Apple M1 Max", 32)
    assert asked.memory_bytes == 64 * 2**30
    # What applegpuinfo printed on an M1 Max with 32 cores: 10.617 TFLOPS, 409.6 GB/s (its issue 2).
    assert asked.f32_flops == pytest.approx(10.617e12, rel=1e-4)
    assert asked.bandwidth == pytest.approx(409.6e9)
    # llama.cpp issue 1870: 49152 MiB on a 64 GB M1 Max in 2023.
    assert asked.working_set_bytes == 49152 * 2**20


def test_a_macos_changes_the_working_set() -> None:
    before, after = mac.named("m1-max-64", "15.5"), mac.named("m1-max-64", "26.1")
    assert before.working_set_bytes < after.working_set_bytes


@pytest.mark.parametrize(
    ("name", "plain", "cores"),
    [
        ("M1 Max 24c 64", "m1-max-24c-64", 24),
        ("apple_m4_16", "m4-16", 10),
        ("m4-16gb", "m4-16", 10),
        ("m4-max-36", "m4-max-36", 32),  # 36 GB is sold with 32 cores alone: MTPLX issue 64
    ],
)
def test_spellings(name: str, plain: str, cores: int) -> None:
    found = mac.named(name)
    assert (found.name, found.gpu_cores) == (plain, cores)
    assert mac.named(plain) == found


def test_every_full_name_is_accepted() -> None:
    assert [mac.named(name).name for name in mac.names()] == mac.names()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("m1-mx-64", "m1-max-64"),
        ("m1-max-16", "m1-max-24c-32"),
        ("m1-max-8c-64", "m1-max-24c-64"),
        ("m9-16", "CHIP[-CORESc]-MEMORY"),
        ("", "CHIP[-CORESc]-MEMORY"),
        ("64", "CHIP[-CORESc]-MEMORY"),
    ],
)
def test_a_name_that_is_none_is_a_usage_error(name: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        mac.named(name)
    assert hint in caught.value.hint


def test_a_macos_that_is_none_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="Sequoia"):
        mac.named("m4-16", macos="Sequoia")


def test_a_chip_does_not_answer_for_its_bigger_sister() -> None:
    with pytest.raises(UsageError) as caught:
        mac.named("m1-64")
    assert "m1-max" not in caught.value.hint


@pytest.mark.parametrize(
    ("spoken", "name", "cores"),
    [
        ("M2 Air 16 GB", "m2-16", 10),
        ("MacBook Pro M4 Max 40-core 64GB", "m4-max-40c-64", 40),
        ("MacBook Pro M3 8 GB", "m3-8", 10),
        ("Mac Studio (M2 Ultra, 60 cores, 192 GB)", "m2-ultra-60c-192", 60),
        ("mac mini m4 pro 24gb", "m4-pro-24", 20),
        ("Apple M1 Max 32 GiB", "m1-max-32", 32),
    ],
)
def test_a_mac_is_found_as_people_call_it(spoken: str, name: str, cores: int) -> None:
    found = mac.named(spoken)
    assert (found.name, found.gpu_cores) == (name, cores)
