"""Play a fault of the hub: the repository that has it, the real client in its own process, and the outcome."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
sys.path.insert(0, str(CHECKOUT))

from tests.support.hub_server import Fault, Hub, Repository, environment  # noqa: E402

WEIGHTS = "model.safetensors"
SIZE = 3_000_000


def weights(size: int = SIZE, seed: int = 0, name: str = "w") -> bytes:
    """Return a safetensors file with one bfloat16 tensor of random bytes.

    Args:
        size: The bytes of the tensor; an odd number is rounded down.
        seed: The seed of the bytes.
        name: The name of the tensor.
    """
    header = {name: {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size // 2 * 2]}}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + random.Random(seed).randbytes(size // 2 * 2)


def files(size: int = SIZE, seed: int = 0) -> dict[str, bytes]:
    """Return the files of a small model by name: config, tokenizer merges and weights of `size` bytes."""
    return {
        "config.json": b'{"architectures": ["X"], "model_type": "x"}',
        "merges.txt": b"a b\n" * 300,
        WEIGHTS: weights(size, seed),
    }


def repository(*faults: Fault, **options: object) -> Repository:
    """Return a repository of a small model with these faults; `options` are fields of `Repository`."""
    return Repository(files(), faults=list(faults), **options)  # type: ignore[arg-type]


def cdn(kind: str, times: int = 1, skip: int = 1, **more: object) -> Callable[[], Repository]:
    """Return a function that makes a repository with a fault of the host of large files.

    Args:
        kind: The kind of fault; see `hub_server.Fault`.
        times: How many requests meet it; -1 for all.
        skip: The number of requests before it.
        **more: Further fields of `Fault`.
    """
    return lambda: repository(Fault(kind, "cdn", WEIGHTS, times=times, skip=skip, **more))  # type: ignore[arg-type]


def resolve(kind: str, times: int = -1, **more: object) -> Callable[[], Repository]:
    """Return a function that makes a repository with a fault of the hub's address of the weights.

    Args:
        kind: The kind of fault; see `hub_server.Fault`.
        times: How many requests meet it; -1 for all.
        **more: Further fields of `Fault`.
    """
    return lambda: repository(Fault(kind, "resolve", WEIGHTS, times=times, **more))  # type: ignore[arg-type]


def api(times: int, status: int, **headers: str) -> Callable[[], Repository]:
    """Return a function that makes a repository whose API answers with a status.

    Args:
        times: How many requests meet it; -1 for all.
        status: The HTTP status.
        **headers: Headers of the reply, with `_` for `-` in their names.
    """
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda: repository(Fault("status", "api", times=times, status=status, headers=named))


@dataclass(frozen=True)
class Situation:
    """A fault of the hub, of the cache or of the network, with the accepted outcome.

    Attributes:
        name: A unique name.
        what: The fault in words, for the table.
        make: A function that makes the repository with the fault.
        ends: `"whole"` when the result must be a complete snapshot; else a regular expression for the line of the
            error.
        env: The environment variables of the client.
        also: Functions that make further repositories, by the suffixes of their names.
        left_out: The files of the repository that a correct snapshot leaves out.
        exits: The exit code of the error.
        cli: Whether the command line plays it too, if it has no `act`.
        act: A function to play instead of a plain download, which returns what was wrong, or `""`; None for none.
    """

    name: str
    what: str
    make: Callable[[], Repository] = repository
    ends: str = "whole"
    env: dict[str, str] = field(default_factory=dict)
    also: dict[str, Callable[[], Repository]] = field(default_factory=dict)
    left_out: frozenset[str] = frozenset()
    exits: int = 3
    cli: bool = True
    act: Callable[[Play], str] | None = None

    @property
    def repositories(self) -> dict[str, Callable[[], Repository]]:
        """Return the functions that make the repositories of this situation, by the ids of the repositories."""
        return {f"org/{self.name}{end}": make for end, make in {"": self.make, **self.also}.items()}


@dataclass(frozen=True)
class Play:
    """The state of a situation while it is played: its folder, its server and its calls.

    Attributes:
        python: The interpreter whose client downloads.
        hub: The server.
        repo: The id of the repository.
        folder: The folder of this play, which holds the cache.
        situation: The situation.
        commits: The files of each commit, by name, before anything happened.
    """

    python: str
    hub: Hub
    repo: str
    folder: Path
    situation: Situation
    commits: dict[str, dict[str, bytes]]

    @property
    def blob(self) -> Path:
        """Return the path of the blob of the weights, which need not exist."""
        data = self.hub.repositories[self.repo].files.get(WEIGHTS, b"")
        return self.cache / "blobs" / hashlib.sha256(data).hexdigest()

    @property
    def cache(self) -> Path:
        """Return the repository's folder in the hub's cache."""
        return self.folder / "hf" / "hub" / f"models--{self.repo.replace('/', '--')}"

    @property
    def partial(self) -> Path:
        """Return the path of the partial file of the weights, which need not exist."""
        return self.blob.with_name(f"{self.blob.name}.incomplete")

    def start(
        self, *, offline: bool = False, revision: str = "", before: str = "", **env: str
    ) -> subprocess.Popen[str]:
        """Start a download in its own process, which prints lines of JSON, the last one with the outcome.

        Args:
            offline: Whether to use only the cache.
            revision: A commit, tag or branch; `""` for the default branch.
            before: Python code that runs first.
            **env: Further environment variables.
        """
        variables = {
            key: value for key, value in os.environ.items() if not key.startswith(("HF_", "MPSPROBE_"))
        }
        variables |= environment(self.hub.url, self.folder / "hf", HF_HUB_DOWNLOAD_TIMEOUT="1")
        variables |= {"PYTHONPATH": str(CHECKOUT / "src"), **self.situation.env, **env}
        return subprocess.Popen(
            [self.python, "-c", before + _DOWNLOAD, self.repo, str(int(offline)), revision],
            env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def finish(
        self, process: subprocess.Popen[str], ends: str, *, exits: int | None = None, limit_s: float = 120.0
    ) -> str:
        """Wait for a download, and return what is wrong with its outcome; `""` for nothing.

        Args:
            process: The download.
            ends: `"whole"`, or a regular expression for the line of the error.
            exits: The exit code of that error; None for the situation's.
            limit_s: The seconds after which the download is killed, and counts as wrong.
        """
        try:
            out, err = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return f"did not end within {limit_s:g} s"
        if "Traceback" in err and not out.strip():
            return f"a traceback: {err.strip().splitlines()[-1][:150]}"
        last = json.loads(out.splitlines()[-1]) if out.strip() else {"line": "nothing was printed"}
        if "folder" in last:
            return self._damage(Path(last["folder"])) or ("" if ends == "whole" else f"passed, not {ends!r}")
        if ends == "whole":
            return f"no snapshot: {last['line'][:200]}"
        if last.get("exit") != (self.situation.exits if exits is None else exits):
            return f"exit code {last.get('exit')}"
        if "\n" in last["line"] or not re.search(ends, last["line"]):
            return f"another line: {last['line'][:200]}"
        return (
            "" if not self.blob.exists() or self._is_right(self.blob) else "a damaged file was put into place"
        )

    @property
    def source(self) -> Repository:
        """Return the repository whose files must be the result: the one itself, or the one that it was renamed to."""
        there = self.hub.repositories[self.repo]
        return self.hub.repositories[there.renamed_to] if there.renamed_to else there

    def _is_right(self, path: Path) -> bool:
        return path.read_bytes() == self.source.files[WEIGHTS]

    def _damage(self, folder: Path) -> str:
        stated = self.commits.get(folder.name, {})
        expected = {name: data for name, data in stated.items() if name not in self.situation.left_out}
        found = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() or path.is_symlink()
        }
        return "" if found == expected else f"other bytes in {sorted(found)}"


_DOWNLOAD = """
import json, sys
from mpsprobe.errors import MpsprobeError
from mpsprobe.models.hub import client
repo, offline, revision = sys.argv[1], sys.argv[2] == "1", sys.argv[3] or None
try:
    if offline:
        folder = client.cached_snapshot(repo, revision)
        damaged = client.verify_cached(folder, repo)
        if damaged:
            raise client.DamagedFileError(f"damaged: {damaged}")
    else:
        say = lambda line: print(json.dumps({"line": line}), flush=True)
        folder = client.download(client.preflight(repo, revision), None, say).folder
    print(json.dumps({"folder": str(folder)}))
except MpsprobeError as problem:
    print(json.dumps({"line": f"{problem.what} {problem.hint}", "exit": problem.exit_code}))
except KeyboardInterrupt:
    print(json.dumps({"line": "interrupted", "exit": 5}))
"""


def play(situation: Situation, python: str, hub: Hub) -> str:
    """Play a situation with the client of an interpreter; return what was wrong, or `""`.

    Args:
        situation: The situation.
        python: The path of the interpreter.
        hub: The server, which holds the situation's repositories.
    """
    repo = f"org/{situation.name}"
    there = hub.repositories[repo]
    commits = dict((hub.repositories[there.renamed_to] if there.renamed_to else there).commits)
    folder = Path(tempfile.mkdtemp(prefix="mpsprobe-hub-"))
    try:
        one = Play(python, hub, repo, folder, situation, commits)
        return situation.act(one) if situation.act else one.finish(one.start(), situation.ends)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
