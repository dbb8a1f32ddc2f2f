"""Try the built wheel as a user has it: in a new environment, with commands run in an empty folder.

    python tools/clean_install.py [--python 3.10 3.13] [--torch 2.6.0 newest] [--wheels FOLDER]

The source distribution is built from the working tree, the wheel from the source distribution, and `twine check
--strict` reads both. For each interpreter that is found (on PATH, or installed by pyenv) and each torch release, a
new virtual environment gets the wheel with whatever its metadata require, and an empty folder runs in it what
`_COMMANDS` lists: the import, `--help`, `predict`, `run` and `pytest --pyargs mpsprobe.suite`.

torch comes without CUDA, as `installed_releases.py` explains. The tool prints the table of docs/platforms.md and
ends with 1 when anything failed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from installed_releases import install, make_missing_libraries

_ROOT = Path(__file__).resolve().parents[1]
_PYTHONS = ("3.10", "3.11", "3.12", "3.13")
#: The oldest torch that the metadata allow, and the newest that PyPI has for the interpreter.
_RELEASES = ("2.6.0", "newest")
#: What torch requires for CUDA, and cannot use here.
_CUDA_REQUIREMENT = re.compile(r"^Requires-Dist: (nvidia-|triton|cuda-)", re.I)
_LIMIT_S = 900.0
#: Commands run in an empty folder; those of the environment's own bin folder.
_COMMANDS: dict[str, tuple[str, ...]] = {
    "import": ("python", "-c", "import mpsprobe; mpsprobe.emulate; import torch; print(torch.__version__)"),
    "pip check": ("python", "-m", "pip", "check"),
    "version": ("mpsprobe", "--version"),
    "help": ("mpsprobe", "--help"),
    "ops": ("mpsprobe", "ops", "aten::linalg_eigh", "--torch", "all"),
    "predict": ("mpsprobe", "predict", "--torch", "2.13"),
    "pytest": ("python", "-m", "pytest", "-q", "--pyargs", "mpsprobe.suite", "--mpsprobe-device", "emulated",
        "--mpsprobe-torch", "2.13"),
    "run": ("mpsprobe", "run", "--device", "emulated", "--torch", "2.13", "--output", "out"),
}  # fmt: skip
#: `predict` ends with 1 where an op is not native: that is an answer.
_ENDS = {"predict": (0, 1)}


@dataclass
class _Tried:
    """The result of one environment: its versions, the time, and by command the end of the output of failed ones."""

    python: str
    torch: str
    seconds: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def row(self) -> str:
        """Return the environment's row of the Markdown table."""
        said = "all pass" if not self.failed else f"failed: {', '.join(self.failed)}"
        return f"| {self.python} | {self.torch} | {said} | {self.seconds:.0f} s |"


def build(folder: Path) -> Path:
    """Build the source distribution from the working tree, and the wheel from that; return the wheel."""
    tools = folder / "tools"
    _checked([sys.executable, "-m", "venv", str(tools)])
    python = str(tools / "bin" / "python")
    _checked([python, "-m", "pip", "install", "--quiet", "build", "twine"])
    made = folder / "dist"
    _checked([python, "-m", "build", "--outdir", str(made), str(_ROOT)])
    _checked([python, "-m", "twine", "check", "--strict", *map(str, made.iterdir())])
    return next(made.glob("mpsprobe-*.whl"))


def try_one(python: str, release: str, wheel: Path, wheels: Path | None) -> _Tried:
    """Make a new environment with a torch release and the wheel, run every command in it, and return what failed."""
    tried = _Tried(python, release)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mpsprobe-clean-") as scratch:
        home = Path(scratch)
        environment = home / "env"
        _checked([_interpreter(python) or python, "-m", "venv", str(environment)])
        site = next((environment / "lib").glob("python*/site-packages"))
        interpreter = str(environment / "bin" / "python")
        try:
            install("" if release == "newest" else release, site, wheels, interpreter)
        except subprocess.CalledProcessError:
            tried.failed["install torch"] = f"torch {release} has no wheel for Python {python}"
            return tried
        tried.torch = _version(site)
        _forget_cuda(site)
        make_missing_libraries(site, home / "libraries")
        _checked([interpreter, "-m", "pip", "install", "--quiet", str(wheel)])
        variables = _variables(environment, site, home)
        elsewhere = home / "elsewhere"
        elsewhere.mkdir()
        for name, command in _COMMANDS.items():
            path = str(environment / "bin" / command[0])
            try:
                ran = subprocess.run(
                    [path, *command[1:]], cwd=elsewhere, env=variables, capture_output=True, text=True,
                    check=False, timeout=_LIMIT_S,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                tried.failed[name] = f"still running after {_LIMIT_S:.0f} s"
                continue
            if ran.returncode not in _ENDS.get(name, (0,)):
                said = ran.stdout + ran.stderr
                dead = said.find("Fatal Python error")  # a crash says where at its beginning
                said = said[dead : dead + 1500] if dead >= 0 else said[-1500:]
                tried.failed[name] = f"exit {ran.returncode}: {said}"
    tried.seconds = time.monotonic() - began
    return tried


def _checked(command: list[str]) -> None:
    """Run a command of the set-up; end the program with its output when it fails."""
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.exit(f"{' '.join(command)}\n{ran.stdout}{ran.stderr}")


def _forget_cuda(site: Path) -> None:
    """Remove CUDA's packages from torch's requirements, because pip would install gigabytes of them."""
    for metadata in site.glob("torch-*.dist-info/METADATA"):
        lines = metadata.read_text(encoding="utf-8").splitlines(keepends=True)
        metadata.write_text(
            "".join(line for line in lines if not _CUDA_REQUIREMENT.match(line)), encoding="utf-8"
        )


def _version(site: Path) -> str:
    """Return the version of the installed torch, from the name of its metadata."""
    return next(site.glob("torch-*.dist-info")).name.removeprefix("torch-").removesuffix(".dist-info")


def _variables(environment: Path, site: Path, home: Path) -> dict[str, str]:
    libraries = [str(home / "libraries"), *(str(path) for path in site.glob("nvidia/**/lib"))]
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    return {
        **kept,
        "PATH": os.pathsep.join([str(environment / "bin"), os.environ["PATH"]]),
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def main() -> int:
    """Try every environment and print the table; return 1 when anything failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--python", nargs="+", default=_PYTHONS, help="for example 3.12; those not found are left out"
    )
    parser.add_argument("--torch", nargs="+", default=_RELEASES, help="for example 2.8.0, or newest")
    parser.add_argument(
        "--wheels", type=Path, help="a folder with torch's wheels that were downloaded before"
    )
    chosen = parser.parse_args()
    found = [python for python in chosen.python if _interpreter(python)]
    if not found:
        sys.exit("None of these interpreters is installed.")
    results = []
    with tempfile.TemporaryDirectory(prefix="mpsprobe-wheel-") as folder:
        wheel = build(Path(folder))
        sys.stdout.write("| Python | torch | | time |\n|---|---|---|---|\n")
        for python in found:
            for release in chosen.torch:
                tried = try_one(python, release, wheel, chosen.wheels)
                results.append(tried)
                sys.stdout.write(f"{tried.row}\n")
                for name, said in tried.failed.items():
                    sys.stdout.write(f"{name}: {said}\n")
                sys.stdout.flush()
    return int(any(tried.failed for tried in results))


def _interpreter(python: str) -> str | None:
    """Return the path of an interpreter that starts, from PATH or else from pyenv's versions; None without one."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    own = sorted(root.glob(f"versions/{python}.*/bin/python{python}"))
    for program in (shutil.which(f"python{python}"), *map(str, reversed(own))):
        if (
            program
            and not subprocess.run([program, "--version"], capture_output=True, check=False).returncode
        ):
            return program
    return None


if __name__ == "__main__":
    sys.exit(main())
