"""A Linux PyTorch in the role of a Mac's: built at test time from `stand_in.cpp`, loaded into child processes.

The library is kept in the temporary folder, under a name made of its source and the torch version.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[2]


@functools.cache
def library() -> Path:
    """Build the stand-in for the installed torch, or find the one that was built before; skip without a compiler."""
    import torch

    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("the stand-in needs Linux and a C++ compiler")
    source = FOLDER / "stand_in.cpp"
    name = hashlib.sha256(source.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    built = Path(tempfile.gettempdir()) / f"mpsprobe-stand-in-{os.getuid()}-{name}.so"
    if not built.exists():
        torch_folder = Path(torch.__file__).parent
        include, lib = torch_folder / "include", torch_folder / "lib"
        partial = built.with_suffix(f".{os.getpid()}")
        command = [
            compiler,
            "-O1",
            "-g0",
            "-w",
            "-std=c++20",
            "-fPIC",
            "-shared",
            str(source),
            "-o",
            str(partial),
        ]
        command += [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"]
        command += [f"-I{include}", f"-I{include / 'torch/csrc/api/include'}"]
        command += [f"-L{lib}", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{lib}"]
        subprocess.run(command, check=True)
        partial.rename(built)
    return built


def environment(*, mac: str = "", mps: bool = True, **variables: str) -> dict[str, str]:
    """Return the environment of a child process whose torch is the stand-in.

    Args:
        mac: name of recorded answers (`macs/NAME.json`) that the child's system gives; empty: Linux's own.
        mps: whether torch has MPS; without, it is the plain Linux build, as an Intel Mac's.
        variables: as the stand-in and PyTorch read them.
    """
    paths = [
        str(FOLDER / "site"),
        str(ROOT / "src"),
        str(ROOT),
        *os.environ.get("PYTHONPATH", "").split(os.pathsep),
    ]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "STAND_IN_LIBRARY": str(library()) if mps else "",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        **({"STAND_IN_MAC": str(FOLDER / "macs" / f"{mac}.json")} if mac else {}),
        **variables,
    }


def run(
    *command: str, mac: str = "", mps: bool = True, timeout: float = 600, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run `python COMMAND` in a child process with the stand-in."""
    return subprocess.run(
        [sys.executable, *command],
        env=environment(mac=mac, mps=mps, **variables), capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


class Zygote:
    """A child process that has imported torch and mpsprobe and forks for each program (`zygote.py`).

    Args:
        mps: whether its torch is the stand-in; without, it is the plain Linux build.
        folder: where the output of programs goes.
    """

    def __init__(self, folder: Path, *, mps: bool = True) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.stand_in.zygote"],
            cwd=ROOT, env=environment(mps=mps), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, code: str) -> subprocess.CompletedProcess[str]:
        """Run a program in a fork."""
        files = {name: self._folder / name for name in ("out", "err")}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {"code": code, **{name: str(path) for name, path in files.items()}}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the zygote ended"
        return subprocess.CompletedProcess(
            code, int(answer), files["out"].read_text(), files["err"].read_text()
        )

    def close(self) -> None:
        """End it."""
        self._process.communicate()
