"""The virtual device on Linux aarch64, on an x86-64 machine: qemu-user, Debian's arm64 Python and PyPI's wheels.

    python tools/aarch64.py FOLDER 2.6.0 2.8.0 2.13.0 [--predict MODEL ...] [--full RELEASE] [--rows N] [--example]

makes FOLDER once (a root file system of 60 MB, the wheels of the dependencies, each torch release in a folder of
its own), runs the tests of the C++ hooks with each release, and prints the table for docs/platforms.md. A wheel
that carries CUDA is given empty CUDA libraries, as `tools/installed_releases.py` does. `--predict` predicts a model
with the last release, `--full` runs all tests of `emulate` and `predict` with one, `--rows` compares the op uses of
the first N models of the zoo with those of this machine's own Python, if that has the last release installed.
`--example` runs README's first example with each release instead of the tests, and compares its document with that
of this machine's own torch.

It needs a Debian or Ubuntu with qemu-user-static and gcc-aarch64-linux-gnu, and takes some CPU minutes a release:
importing torch takes half a minute under qemu. What qemu cannot show: caches (instruction and data are never apart
there), speed, and the memory that 16 TB of reserved address space take (qemu keeps flags for each page, so `-R` gives
it a smaller address space, in which the memoryless engine reserves less).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import installed_releases

_ROOT = Path(__file__).parents[1]
_PACKAGES = (
    *(
        "python3.11-minimal",
        "libpython3.11-minimal",
        "libpython3.11-stdlib",
        "libc6",
        "libgcc-s1",
        "libstdc++6",
    ),
    *(
        "libexpat1",
        "zlib1g",
        "libssl3",
        "libffi8",
        "liblzma5",
        "libbz2-1.0",
        "libsqlite3-0",
        "libuuid1",
        "libgomp1",
    ),
    *("libcrypt1", "libncursesw6", "libtinfo6", "libreadline8"),
)
_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
#: Distributions of this environment that are of no use there: torch comes apart, the others are for development.
_LEFT_OUT = re.compile(
    r"^(torch.*|triton|nvidia-.*|mpsprobe|mypy.*|ruff|pip|setuptools|wheel|diffusers|types-.*|ast-serialize|librt)$"
)
#: A processor without SVE, as Apple's: with all that qemu 7.2 can do, oneDNN chooses kernels that end in SIGILL there.
_CPU = "neoverse-n1"
#: Address space of the emulated process: 16 TB are refused in it, so the engine reserves 128 GB or less.
_ADDRESS_SPACE = "256G"
#: What an Arm kernel shows of that processor. Without it qemu-user shows the host's: PyTorch's cpuinfo reads an x86-64
#: /proc/cpuinfo, fails to initialise, and torch 2.13 ends in a segmentation fault at its first CPU kernel
#: (`torch.backends.cpu.get_cpu_capability()` by itself, without mpsprobe). qemu looks below its root first.
_KERNEL_FILES = {
    "proc/cpuinfo": (
        "processor\t: 0\nBogoMIPS\t: 243.75\n"
        "Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop "
        "asimddp\n"
        "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x3\nCPU part\t: 0xd0c\nCPU revision\t: 1\n\n"
    ),
    "sys/devices/system/cpu/possible": "0\n",
    "sys/devices/system/cpu/present": "0\n",
    "sys/devices/system/cpu/kernel_max": "255\n",
    "sys/devices/system/cpu/cpu0/regs/identification/midr_el1": "0x00000000413fd0c1\n",
}
#: Tests of what depends on the machine: code, vtables, guard, hooks, relabelling, the engine's thread.
_SEAMS = ("tests/device/virtual/test_guard.py",)
_ENGINES = ("tests/device/virtual/test_emulate.py", "tests/device/virtual/test_predict.py")


class Machine:
    """An emulated aarch64 Linux whose root file system is a folder.

    Attributes:
        folder: The folder of the root file system, the wheels and the torch releases.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._root, self._site = self.folder / "root", self.folder / "site"

    def make(self) -> None:
        """Fetch the root file system and the dependencies, unless they exist."""
        if not (self._root / "usr/bin/python3.11").exists():
            self._fetch_root()
        for name, text in _KERNEL_FILES.items():
            path = self._root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        if not (self._site / "transformers").exists():
            pip(self._site, *dependencies())

    def _fetch_root(self) -> None:
        lists, debs = self.folder / "lists", self.folder / "debs"
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        debs.mkdir(exist_ok=True)
        options = [
            "-oAPT::Architecture=arm64",
            "-oAPT::Architectures=arm64",
            f"-oDir::State::Lists={lists}",
            "-oDir::State::status=/dev/null",
        ]
        subprocess.run(["apt-get", *options, "update", "-qq"], check=True)
        subprocess.run(["apt-get", *options, "download", "-qq", *_PACKAGES], cwd=debs, check=True)
        for package in sorted(debs.glob("*.deb")):
            subprocess.run(["dpkg", "-x", str(package), str(self._root)], check=True)

    def add_torch(self, release: str) -> Path:
        """Install a torch release into its own folder, with empty CUDA libraries where needed; return the folder."""
        site = self.folder / f"torch-{release}"
        if not (site / "ready").exists():
            pip(site, f"torch=={release}")
            needed = {
                name
                for library in installed_releases.linked(site)
                for name in installed_releases.needed_by(library)
            }
            for series, suffix in (("13", ">=13,<14"), ("12", "-cu12")):
                if any(name.startswith(f"libcudart.so.{series}") for name in needed):
                    for part in ("nvidia-cuda-runtime", "nvidia-cuda-cupti"):
                        # some of them have no wheel for aarch64, for which an empty library suffices
                        with contextlib.suppress(subprocess.CalledProcessError):
                            pip(site, part + suffix)
            installed_releases.make_missing_libraries(site, site / "stubs")
            (site / "ready").touch()
        return site

    def version(self, site: Path) -> str:
        """Return the version of a torch that `add_torch` installed, without importing it; empty where it is missing."""
        file = site / "torch" / "version.py"
        found = (
            re.search(r"__version__ = '([^']+)'", file.read_text(encoding="utf-8")) if file.exists() else None
        )
        return found[1] if found else ""

    def python(self, site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the emulated Python with a torch release that `add_torch` installed."""
        return subprocess.run(
            [str(self._command(site)), *arguments], cwd=_ROOT, capture_output=True, text=True, check=False
        )

    def _command(self, site: Path) -> Path:
        """Write the script that starts the emulated Python with a torch release, and return its path."""
        libraries = [str(site / "stubs"), *(str(path) for path in site.glob("nvidia/**/lib"))]
        environment = {
            "PYTHONHOME": str(self._root / "usr"),
            "PYTHONPATH": os.pathsep.join(map(str, (_ROOT / "src", _ROOT, site, self._site))),
            "LD_LIBRARY_PATH": os.pathsep.join(libraries),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        command = site / "python3.11"
        options = [part for name, value in environment.items() for part in ("-E", f"{name}={value}")]
        emulator = [
            "qemu-aarch64-static",
            "-cpu",
            _CPU,
            "-R",
            _ADDRESS_SPACE,
            "-L",
            str(self._root),
            "-0",
            str(command),
        ]
        words = [*emulator, *options, str(self._root / "usr/bin/python3.11")]
        command.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        command.chmod(0o755)
        return command


def dependencies() -> list[str]:
    """Return this environment's distributions as requirements, without torch and development tools."""
    found = {item.name.lower(): item.version for item in importlib.metadata.distributions()}
    return [f"{name}=={version}" for name, version in sorted(found.items()) if not _LEFT_OUT.match(name)]


def pip(site: Path, *requirements: str) -> None:
    """Install wheels for aarch64 into a folder, without their dependencies."""
    platforms = [part for name in _PLATFORMS for part in ("--platform", name)]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", "3.11", "--implementation", "cp", *platforms, "--target", str(site)]
    subprocess.run([*command, *requirements], check=True, stderr=subprocess.DEVNULL)


def tested(machine: Machine, site: Path, files: tuple[str, ...]) -> str:
    """Run test files, and return pytest's last line."""
    ran = machine.python(site, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", *files)
    lines = ran.stdout.strip().splitlines() or ran.stderr.strip().splitlines() or ["nothing was printed"]
    sys.stderr.write("".join(f"  {line}\n" for line in lines if line.startswith(("FAILED", "ERROR"))))
    return lines[-1]


def here_and_there(machine: Machine, site: Path, module: str, *arguments: str) -> tuple[Any, Any] | None:
    """Run a module with this Python and on the arm64 machine; return the JSON of both, None where one prints none."""
    command = ["-m", module, *arguments]
    here = subprocess.run(
        [sys.executable, *command], cwd=_ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT / "src"), str(_ROOT)])},
    )  # fmt: skip
    there = machine.python(site, *command)
    try:
        return json.loads(here.stdout), json.loads(there.stdout)
    except ValueError:
        sys.stderr.write(there.stderr[-2000:])
        return None


def same_example(machine: Machine, site: Path) -> bool:
    """Run README's first example there and here, print a row, and return whether both documents are equal."""
    both = here_and_there(machine, site, "tests.support.readme_example", str(machine.folder / "example"))
    if both is None:
        return False
    expected, found = both
    differ = [name for name in expected if found.get(name) != expected[name]]
    uses, version = found["op_uses"], machine.version(site)
    same = "the same document as on x86-64" if not differ else f"differs from x86-64 in {', '.join(differ)}"
    sys.stdout.write(
        f"| {version} | `mpsprobe {found['command']}` | exit code {found['exit']}, {len(uses)} op uses, "
        f"{sum(use['count'] for use in uses)} calls; {same} |\n"
    )
    sys.stdout.flush()
    return not differ


def main() -> int:
    """Make the machine, run the tests and print the table; return 1 when a test failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("releases", nargs="+", help="for example 2.8.0")
    parser.add_argument("--predict", action="append", default=[], metavar="MODEL")
    parser.add_argument("--full", metavar="RELEASE", help="run all tests of both engines with this one")
    parser.add_argument("--rows", type=int, default=0, metavar="N", help="compare N models with this machine")
    parser.add_argument("--example", action="store_true", help="README's first example instead of the tests")
    chosen = parser.parse_args()
    installed_releases.TOOLS = "aarch64-linux-gnu-"
    machine = Machine(chosen.folder)
    machine.make()
    failed = False
    sys.stdout.write("| torch, aarch64 | tests | outcome |\n|---|---|---|\n")
    for release in chosen.releases:
        site = machine.add_torch(release)
        if chosen.example:
            failed |= not same_example(machine, site)
            continue
        version = machine.version(site)
        for files in (_SEAMS, *([_ENGINES] if release == chosen.full else [])):
            outcome = tested(machine, site, files)
            failed |= "failed" in outcome or "error" in outcome or "passed" not in outcome
            names = ", ".join(Path(file).stem for file in files)
            sys.stdout.write(f"| {version} | {names} | {outcome} |\n")
            sys.stdout.flush()
    if chosen.rows:
        both = here_and_there(machine, site, "tests.support.platform_rows", str(chosen.rows))
        if both is None:
            return 1
        expected, rows = both
        same = [name for name in expected if rows.get(name) == expected[name]]
        failed |= len(same) != len(expected)
        sys.stdout.write(
            f"\n{len(same)} of {len(expected)} models: the same op uses, flags and findings as here.\n"
        )
        sys.stdout.write("".join(f"differs: {name}\n" for name in expected if name not in same))
    for model in chosen.predict:
        ran = machine.python(site, "-m", "mpsprobe", "predict", model)
        failed |= ran.returncode != 0
        sys.stdout.write(f"\n$ mpsprobe predict {model}\n{ran.stdout}{ran.stderr}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
