"""Markers of requirements are judged for the target Mac, with the metadata of wheels from PyPI."""

from __future__ import annotations

import pytest
from packaging.requirements import Requirement

from mpsprobe.models.profile import Profile
from mpsprobe.phases import pins, requirements
from mpsprobe.phases.requirements import Pins, resolve
from mpsprobe.run import Mac, Status

#: Requires-Dist of torch's wheels for Linux on PyPI (cp312, manylinux_2_28_x86_64), which compute with CUDA.
TORCH_2_13 = [
    "filelock", "typing-extensions>=4.10.0", "setuptools>=77.0.3", "sympy>=1.13.3", "networkx>=2.5.1", "jinja2",
    "fsspec>=0.8.5",
    "cuda-toolkit[cublas,cudart,cufft,cufile,cupti,curand,cusolver,cusparse,nvjitlink,nvrtc,nvtx]==13.0.3; "
    'platform_system == "Linux"',
    'cuda-bindings<14,>=13.0.3; platform_system == "Linux" and python_version < "3.15"',
    'nvidia-cudnn-cu13==9.20.0.48; platform_system == "Linux"',
    'nvidia-cusparselt-cu13==0.8.1; platform_system == "Linux"',
    'nvidia-nccl-cu13==2.29.7; platform_system == "Linux"',
    'nvidia-nvshmem-cu13==3.4.5; platform_system == "Linux"',
    'triton==3.7.1; platform_system == "Linux" and python_version < "3.15"',
    'optree>=0.13.0; extra == "optree"', 'opt-einsum>=3.3; extra == "opt-einsum"', 'pyyaml; extra == "pyyaml"',
]  # fmt: skip
TORCH_2_8 = [
    "filelock", "typing-extensions>=4.10.0", 'setuptools; python_version >= "3.12"', "sympy>=1.13.3", "networkx",
    "jinja2", "fsspec",
    'nvidia-cublas-cu12==12.8.4.1; platform_system == "Linux" and platform_machine == "x86_64"',
    'nvidia-nccl-cu12==2.27.3; platform_system == "Linux" and platform_machine == "x86_64"',
    'triton==3.4.0; platform_system == "Linux" and platform_machine == "x86_64"',
    'optree>=0.13.0; extra == "optree"', 'opt-einsum>=3.3; extra == "opt-einsum"', 'pyyaml; extra == "pyyaml"',
]  # fmt: skip
#: What a Mac installs beside torch, in versions that fit.
BESIDE = {
    "filelock": "3.20.0", "typing-extensions": "4.15.0", "setuptools": "80.9.0", "sympy": "1.14.0", "networkx": "3.6",
    "jinja2": "3.1.6", "fsspec": "2025.10.0",
}  # fmt: skip


def found(requires: list[str], installed: dict[str, str], metadata: dict[str, list[str]], python: str = "3.12.7",
          mac: Mac | None = None) -> Pins:  # fmt: skip
    own = Profile(name="x", title="x", adapter="a:b", requires=requires)
    return resolve(own, installed.get, lambda name: metadata.get(name, []), python, mac=mac)


@pytest.mark.parametrize(("version", "metadata"), [("2.13.0+cu130", TORCH_2_13), ("2.8.0", TORCH_2_8)])
def test_the_cuda_build_asks_a_mac_for_nothing_of_cuda(version: str, metadata: list[str]) -> None:
    """Also where triton is installed, or another one than that build wants."""
    for more in ({}, {"triton": "3.3.0"}):
        judged = found(["torch>=2.6"], {"torch": version, **BESIDE, **more}, {"torch": metadata})
        assert pins.verdict(judged).status is Status.PASS
        assert {pin.name for pin in judged.pins} == {"torch", *BESIDE}


def test_metadata_of_the_cuda_build_still_counts_on_a_mac() -> None:
    judged = found(["torch>=2.6"], {"torch": "2.13.0", **BESIDE, "sympy": "1.12"}, {"torch": TORCH_2_13})
    assert [(pin.name, pin.found) for pin in judged.unmet] == [("sympy", "1.12")]


def test_the_python_of_the_run_decides_not_this_one() -> None:
    """torch 2.8 wants setuptools from Python 3.12 on."""
    judged = {
        python: {pin.name for pin in found([], {"torch": "2.8.0"}, {}, python).pins}
        | {pin.name for pin in found(["torch"], {"torch": "2.8.0"}, {"torch": TORCH_2_8}, python).pins}
        for python in ("3.11.9", "3.12.7")
    }
    assert judged["3.12.7"] - judged["3.11.9"] == {"setuptools"}


@pytest.mark.parametrize(
    ("marker", "holds"),
    [
        ('sys_platform == "darwin"', True),
        ('sys_platform == "darwin" and platform_machine == "arm64"', True),
        ('platform_machine in "x86_64 amd64"', False),
        ('os_name == "posix"', True),
        ('os_name == "nt" or sys_platform == "linux"', False),
        ('platform_system != "Darwin"', False),
        ('platform_release >= "24.0"', True),
        ('platform_release >= "25.0"', False),
        ('python_version < "3.10"', False),
        ('python_full_version >= "3.12.7"', True),
        ('implementation_name == "cpython"', True),
        ('extra == "cuda"', False),
    ],
)
def test_a_profiles_markers_are_those_of_the_mac(marker: str, holds: bool) -> None:
    """macOS 15.5 is Darwin 24.5 (Apple's release notes of its kernel)."""
    judged = found([f"einops; {marker}"], {}, {}, mac=Mac("2.13.0", macos="15.5"))
    assert bool(judged.pins) is holds


@pytest.mark.parametrize(
    ("macos", "darwin"), [("12.6", "21.6.0"), ("14.0", "23.0.0"), ("15.5", "24.5.0"), ("26.0", "25.0.0")]
)
def test_darwins_release_follows_from_macos(macos: str, darwin: str) -> None:
    assert requirements.of_target(Mac("2.13.0", macos=macos))["platform_release"] == darwin


def test_an_intel_python_on_a_mac_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert requirements.of_target()["platform_machine"] == "x86_64"


def test_a_marker_that_nobody_can_compare_counts() -> None:
    asked = Requirement('einops; os_name ~= "posix"')
    assert requirements.applies(asked, requirements.of_target())


def test_extras_that_are_asked_for_count_and_stay() -> None:
    """transformers 4.57.1 wants accelerate with its extra `torch` (its setup.py), and without it does not."""
    metadata = {"transformers": ['accelerate>=0.26.0; extra == "torch"', "tokenizers<=0.23.0,>=0.22.0"]}
    here = {"transformers": "4.57.1", "tokenizers": "0.22.1"}
    assert not found(["transformers>=4.57"], here, metadata).unmet
    judged = found(["transformers[torch]>=4.57"], here, metadata)
    assert [(pin.name, pin.stated_by) for pin in judged.unmet] == [
        ("accelerate", "transformers[torch] 4.57.1")
    ]
    older = found(["transformers[torch]==4.57.1"], {"transformers": "4.55.4"}, {})
    assert older.requirements() == ["transformers[torch]==4.57.1"]


def test_a_requirement_with_an_address_is_installed_from_there() -> None:
    """PyPI's package of that name is another one."""
    judged = found(["einops @ https://example.com/einops-1.0.tar.gz"], {}, {})
    assert judged.requirements() == ["einops @ https://example.com/einops-1.0.tar.gz"]
