"""Run the tests of the virtual device with other torch releases, each installed in a folder of its own.

PyPI's wheels for Linux are built for CUDA and cannot be imported without its libraries, gigabytes that nothing here
runs. So the wheel is installed without what it requires, and the libraries that it is linked with are made: the
small real ones (the CUDA runtime, CUPTI) come from PyPI, the others are empty shared libraries in which every
function returns 100 (cudaErrorNoDevice), which is what the real ones return on a machine without a GPU.

    python tools/installed_releases.py 2.6.0 2.8.0 2.15.0 [--wheels FOLDER]

needs gcc, nm and readelf, and prints the table for docs/virtual-device.md.
"""

from __future__ import annotations

import argparse
import collections
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_TESTS = _ROOT / "tests" / "device" / "virtual"
#: Libraries of torch that are linked with CUDA's.
_LINKED = (
    *("libtorch_cuda", "libc10_cuda", "libtorch_cuda_linalg", "libtorch_cpu", "libtorch_python", "libtorch"),
    *("libtorch_nvshmem", "libcaffe2_nvrtc", "libtorch_global_deps"),
)
_CUDA_LIBRARIES = ("libcu", "libnccl", "libnv")
_CUDA_SYMBOLS = ("cu", "nccl", "pnccl", "nv", "__nv", "__cuda")
_NO_DEVICE = 100
#: The prefix of gcc, nm and readelf, because `tools/aarch64.py` makes libraries for another machine.
TOOLS = ""


def install(release: str, site: Path, wheels: Path | None, python: str = sys.executable) -> None:
    """Install a torch release into a folder without its requirements, except those that its import needs.

    Args:
        release: The release, such as `2.8.0`; empty for the newest that PyPI has for the interpreter.
        site: The folder to install into.
        wheels: A folder with wheels that were downloaded before; None to use only PyPI.
        python: The interpreter to install for.
    """
    _pip(
        python,
        site,
        f"torch=={release}" if release else "torch",
        *(["--find-links", str(wheels)] if wheels else []),
    )
    needed = {name for library in linked(site) for name in needed_by(library)}
    if any(name.startswith("libcudart.so.12") for name in needed):
        _pip(python, site, "nvidia-cuda-runtime-cu12", "nvidia-cuda-cupti-cu12")
    elif any(name.startswith("libcudart.so.13") for name in needed):
        _pip(python, site, "nvidia-cuda-runtime>=13,<14", "nvidia-cuda-cupti>=13,<14")


def make_missing_libraries(site: Path, folder: Path) -> list[str]:
    """Make an empty library for each CUDA library that torch is linked with and that is missing; return their names."""
    folder.mkdir(exist_ok=True)
    real = list(site.glob("nvidia/**/*.so*"))
    there = {path.name for path in (*real, *(site / "torch" / "lib").glob("*.so*"))}
    defined = {symbol.partition("@")[0] for path in real for symbol in _symbols(path, "--defined-only")}
    needed: set[str] = set()
    plain: set[str] = set()
    versioned: dict[str, set[str]] = collections.defaultdict(set)
    versions: dict[str, set[str]] = collections.defaultdict(set)
    for library in linked(site):
        needed.update(name for name in needed_by(library) if name.startswith(_CUDA_LIBRARIES))
        for name, version in _needed_versions(library):
            versions[name].add(version)
        for symbol in _symbols(library, "--undefined-only"):
            name, _, version = symbol.partition("@")
            if name.startswith(_CUDA_SYMBOLS) and name not in defined:
                (versioned[version.lstrip("@")] if version else plain).add(name)
    missing = sorted(needed - there)
    for library_name in missing:
        functions = set(plain) if library_name == missing[0] else set()
        script = ""
        for version in sorted(versions[library_name]):
            functions |= versioned[version]
            script += (
                f"{version} {{ global: {''.join(f'{one}; ' for one in sorted(versioned[version]))} }};\n"
            )
        _compile(folder / library_name, functions, script)
    return missing


def _compile(library: Path, functions: set[str], script: str) -> None:
    source = "".join(f"int {name}(void) {{ return {_NO_DEVICE}; }}\n" for name in sorted(functions))
    command = [
        f"{TOOLS}gcc",
        "-shared",
        "-fPIC",
        "-w",
        "-x",
        "c",
        "-",
        f"-Wl,-soname,{library.name}",
        "-o",
        str(library),
    ]
    if script:
        versions = library.with_suffix(".map")
        versions.write_text(script)
        command.append(f"-Wl,--version-script={versions}")
    subprocess.run(command, input=source or "int nothing;\n", text=True, check=True)


def run_tests(site: Path, libraries: Path, *, zoo: bool) -> collections.Counter[str]:
    """Run each file of the virtual device's tests in its own process, and return the number of tests by outcome."""
    folders = [str(path) for path in site.glob("nvidia/**/lib")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(site), str(_ROOT / "src"), str(_ROOT)]),
        "LD_LIBRARY_PATH": os.pathsep.join([str(libraries), *folders]),
        "OMP_NUM_THREADS": "1",
    }
    found: collections.Counter[str] = collections.Counter()
    for file in sorted(_TESTS.glob("test_*.py")):
        if file.stem in ("test_zoo", "test_diffusers") and not zoo:
            continue
        report = libraries / f"{file.stem}.xml"
        command = [sys.executable, "-m", "pytest", "-q", "--tb=line", "-p", "no:cacheprovider"]
        ran = subprocess.run(
            [*command, f"--junitxml={report}", str(file)],
            env=environment, cwd=_ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if not report.is_file():
            found["not run"] += 1
            sys.stderr.write(f"{file.name}: {ran.stdout[-500:]}{ran.stderr[-500:]}\n")
            continue
        for outcome, name in _outcomes(report):
            found[outcome] += 1
            if outcome == "failed":
                sys.stderr.write(f"  failed: {file.name}::{name}\n")
    return found


def _outcomes(report: Path) -> Iterator[tuple[str, str]]:
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        tags = {child.tag for child in case}
        outcome = "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"
        yield outcome, case.get("name", "")


def version_of(site: Path, libraries: Path) -> str:
    """Return `torch.__version__` of an installed release, or the last line of the error of its import."""
    folders = os.pathsep.join([str(libraries), *(str(path) for path in site.glob("nvidia/**/lib"))])
    environment = {**os.environ, "PYTHONPATH": str(site), "LD_LIBRARY_PATH": folders}
    command = [sys.executable, "-c", "import torch; print(torch.__version__)"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return ran.stdout.strip() or ran.stderr.strip().rpartition("\n")[2]


def _pip(python: str, site: Path, *arguments: str) -> None:
    command = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(site),
        *arguments,
    ]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def linked(site: Path) -> list[Path]:
    """List the libraries of a torch that may be linked with CUDA's."""
    paths = [site / "torch" / "lib" / f"{name}.so" for name in _LINKED]
    return [path for path in paths if path.is_file()]


def needed_by(library: Path) -> list[str]:
    """List the libraries that one is linked with."""
    lines = _output(f"{TOOLS}readelf", "-d", str(library))
    return [line.split("[")[1].rstrip("]") for line in lines if "(NEEDED)" in line]


def _needed_versions(library: Path) -> Iterator[tuple[str, str]]:
    """Yield (library, symbol version) for each versioned library that a library needs."""
    current = ""
    for line in _output(f"{TOOLS}readelf", "-V", str(library)):
        if "File:" in line:
            current = line.split("File:")[1].split()[0]
        elif current and "Name:" in line and "Flags" in line and "Index" not in line:
            yield current, line.split("Name:")[1].split()[0]


def _symbols(library: Path, which: str) -> list[str]:
    return [line.split()[-1] for line in _output(f"{TOOLS}nm", "-D", which, str(library)) if line.strip()]


def _output(*command: str) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()


def main() -> int:
    """Run the tests with each release and print the table; return 1 when a test failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("releases", nargs="+", help="for example 2.8.0")
    parser.add_argument("--wheels", type=Path, help="a folder with wheels that were downloaded before")
    parser.add_argument(
        "--no-zoo", action="store_true", help="leave out the models of transformers and diffusers"
    )
    chosen = parser.parse_args()
    sys.stdout.write("| installed | passed | failed | skipped |\n|---|---|---|---|\n")
    failed = False
    for release in chosen.releases:
        with tempfile.TemporaryDirectory(prefix="mpsprobe-release-") as scratch:
            site, libraries = Path(scratch, "site"), Path(scratch, "libraries")
            install(release, site, chosen.wheels)
            make_missing_libraries(site, libraries)
            version = version_of(site, libraries)
            found = run_tests(site, libraries, zoo=not chosen.no_zoo)
        bad = found["failed"] + found["not run"]
        failed |= bool(bad) or not found["passed"]
        sys.stdout.write(f"| {version} | {found['passed']} | {bad} | {found['skipped']} |\n")
        sys.stdout.flush()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
