"""Faults of the hub, the network, the disk and other processes, each through a real server and the real client.

`cases()` plays them through the command line, as the other groups do. `python -m faults.hub PYTHON...` plays them in
each interpreter named, which may have another release of huggingface_hub, and draws the table of docs/hub.md.
"""

from __future__ import annotations

import argparse
import contextlib
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
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from faults.case import FAILED, PASSED, Case, Outcome

_CHECKOUT = Path(__file__).parents[2]
sys.path.insert(0, str(_CHECKOUT))

from tests.support.hub_server import COMMIT, TOKEN, Fault, Hub, Repository, environment, serve  # noqa: E402

PROMISE = (
    "Whatever the hub, the network or the disk does, a download ends in a complete snapshot whose every checksum was "
    "compared, or in one line that names the file, the status and what to do."
)
WEIGHTS = "model.safetensors"
_OTHER = "b" * 40
_SIZE = 3_000_000
_DOC = _CHECKOUT / "docs" / "hub.md"
_BEGIN, _END = "<!-- hub faults: begin -->", "<!-- hub faults: end -->"


def _weights(size: int, seed: int) -> bytes:
    header = {"w": {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size // 2 * 2]}}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + random.Random(seed).randbytes(size // 2 * 2)


def _files(size: int = _SIZE, seed: int = 0) -> dict[str, bytes]:
    return {
        "config.json": b'{"architectures": ["X"], "model_type": "x"}',
        "merges.txt": b"a b\n" * 300,
        WEIGHTS: _weights(size, seed),
    }


def _repository(*faults: Fault, **options: object) -> Repository:
    return Repository(_files(), faults=list(faults), **options)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Situation:
    """One fault.

    Attributes:
        name: unique.
        what: the fault, in words, for the table.
        make: makes the repository that has it.
        ends: `"whole"` when a complete snapshot must come out; else a regular expression of the one line.
        env: environment variables of the client.
        act: played in place of a plain download; returns what was wrong, or `""`.
    """

    name: str
    what: str
    make: Callable[[], Repository] = _repository
    ends: str = "whole"
    env: dict[str, str] = field(default_factory=dict)
    act: Callable[[Play], str] | None = None


@dataclass(frozen=True)
class Play:
    """A situation in play.

    Attributes:
        python: the interpreter whose client downloads.
        hub: the server.
        repo: id of the repository.
        folder: of this play; the cache is in it.
        situation: which one.
    """

    python: str
    hub: Hub
    repo: str
    folder: Path
    situation: Situation

    @property
    def blob(self) -> Path:
        """Return where the weights are kept."""
        data = self.hub.repositories[self.repo].files.get(WEIGHTS, b"")
        name = f"models--{self.repo.replace('/', '--')}"
        return self.folder / "hf" / "hub" / name / "blobs" / hashlib.sha256(data).hexdigest()

    def start(self, *, offline: bool = False, **env: str) -> subprocess.Popen[str]:
        """Start a download in a process of its own."""
        variables = {
            key: value for key, value in os.environ.items() if not key.startswith(("HF_", "MPSPROBE_"))
        }
        variables |= environment(self.hub.url, self.folder / "hf", HF_HUB_DOWNLOAD_TIMEOUT="1")
        variables |= {"PYTHONPATH": str(_CHECKOUT / "src"), **self.situation.env, **env}
        return subprocess.Popen(
            [self.python, "-c", _DOWNLOAD, self.repo, str(int(offline))],
            env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def finish(self, process: subprocess.Popen[str], ends: str, limit_s: float = 120.0) -> str:
        """Return what is wrong with the end of a download; `""` when nothing is."""
        try:
            out, err = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return f"did not end within {limit_s:g} s"
        if "Traceback" in err:
            return f"a traceback: {err.strip().splitlines()[-1][:150]}"
        last = json.loads(out.splitlines()[-1]) if out.strip() else {"line": "nothing was printed"}
        if "folder" in last:
            return self._damage(Path(last["folder"])) or ("" if ends == "whole" else f"passed, not {ends!r}")
        if ends == "whole":
            return f"no snapshot: {last['line'][:200]}"
        if last.get("exit") != 3:
            return f"exit code {last.get('exit')}"
        if "\n" in last["line"] or not re.search(ends, last["line"]):
            return f"another line: {last['line'][:200]}"
        return (
            "" if not self.blob.exists() or self._is_right(self.blob) else "a damaged file was put into place"
        )

    def _is_right(self, path: Path) -> bool:
        return path.read_bytes() == self.hub.repositories[self.repo].files[WEIGHTS]

    def _damage(self, folder: Path) -> str:
        expected = self.hub.repositories[self.repo].commits.get(folder.name, {})
        found = {path.name: path.read_bytes() for path in folder.iterdir()}
        return "" if found == expected else f"other bytes in {sorted(found)}"


_DOWNLOAD = """
import json, sys
from mpsprobe.errors import MpsprobeError
from mpsprobe.models.hub import client
repo, offline = sys.argv[1], sys.argv[2] == "1"
try:
    if offline:
        folder = client.cached_snapshot(repo)
    else:
        say = lambda line: print(json.dumps({"line": line}), flush=True)
        folder = client.download(client.preflight(repo), None, say).folder
    print(json.dumps({"folder": str(folder)}))
except MpsprobeError as problem:
    print(json.dumps({"line": f"{problem.what} {problem.hint}", "exit": problem.exit_code}))
"""


def _killed_and_resumed(play: Play) -> str:
    partial = play.blob.with_name(f"{play.blob.name}.incomplete")
    first = play.start()
    until = time.monotonic() + 60
    while (not partial.exists() or partial.stat().st_size < 1_000_000) and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    there = partial.stat().st_size if partial.exists() else 0
    if not there:
        return "nothing was kept"
    wrong = play.finish(play.start(), "whole")
    ranges = [r for _, path, r in play.hub.requests if play.repo in path and r == f"bytes={there}-"]
    return wrong or ("" if ranges else "began anew")


def _two_at_once(play: Play) -> str:
    both = [play.start(), play.start()]
    wrong = [play.finish(one, "whole") for one in both]
    asked = [
        path
        for method, path, r in play.hub.requests
        if method == "GET" and f"/cdn/file?repo={play.repo}&" in path and WEIGHTS in path and r is None
    ]
    return next(filter(None, wrong), "" if len(asked) == 1 else f"fetched {len(asked)} times")


_HOLD = """
import sys, time
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(90)
"""


def _locked(play: Play) -> str:
    lock = play.folder / "hf" / "hub" / ".locks" / play.blob.parents[1].name / f"{play.blob.name}.lock"
    lock.parent.mkdir(parents=True)
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(lock)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        wrong = play.finish(play.start(), rf"held by process {holder.pid} \(.*running since")
        holder.kill()
    return wrong or play.finish(play.start(), "whole")


def _disk_full(play: Play) -> str:
    """Fill a small tmpfs; the room that a download must leave is lowered, else it would be refused at preflight."""
    small = play.folder / "hf"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], check=False).returncode:
        return "not tried: no tmpfs can be mounted here"
    try:
        wrong = play.finish(play.start(), r"\d.* to download .* has .* free\. Free .* or set HF_HOME")
        # a disk that another process fills meanwhile: the preflight saw room
        roomy = "import shutil; shutil.disk_usage = lambda _: type('U', (), {'free': 1 << 40})"
        late = f"{roomy}\n{_DOWNLOAD}"
        process = subprocess.Popen(
            [play.python, "-c", late, play.repo, "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **environment(play.hub.url, small), "PYTHONPATH": str(_CHECKOUT / "src")},
            start_new_session=True,
        )  # fmt: skip
        return wrong or play.finish(
            process, r"the disk of .* is full at byte [\d,]+ of [\d,]+\. Free .*B, or set HF_HOME"
        )
    finally:
        subprocess.run(["umount", str(small)], check=False)


def _not_writable(play: Play) -> str:
    cache = play.folder / "hf" / "hub"
    cache.mkdir(parents=True)
    if os.geteuid() != 0:
        cache.chmod(0o500)
        return play.finish(play.start(), "cannot be written")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(cache)], check=False).returncode:
        return "not tried: no read-only disk can be mounted here"
    try:
        return play.finish(play.start(), r"cannot be written: Read-only file system.*set HF_HOME")
    finally:
        subprocess.run(["umount", str(cache)], check=False)


def _cache_is_a_file(play: Play) -> str:
    (play.folder / "hf").mkdir()
    (play.folder / "hf" / "hub").write_text("in the way")
    return play.finish(play.start(), r"hf/hub.*(Not a directory|File exists).*HF_HOME")


def _offline_partial(play: Play) -> str:
    wrong = play.finish(play.start(), "whole")
    play.blob.unlink()
    return wrong or play.finish(play.start(offline=True), rf"1 files of commit {COMMIT[:12]}.*{WEIGHTS}")


def _bit_rot(play: Play) -> str:
    """Flip a bit on the disk after the download; the time of modification tells."""
    wrong = play.finish(play.start(), "whole")
    data = bytearray(play.blob.read_bytes())
    data[1_000_000] ^= 1
    play.blob.write_bytes(data)
    before = len(play.hub.requests)
    wrong = wrong or play.finish(play.start(), "whole")
    again = {
        path.rpartition("/")[2]
        for _, path, r in play.hub.requests[before:]
        if f"{play.repo}/resolve/" in path and r is None
    }
    return wrong or ("" if again == {WEIGHTS} else f"fetched again: {sorted(again)}")


def _wrong_beginning(play: Play) -> str:
    play.blob.parent.mkdir(parents=True)
    play.blob.with_name(f"{play.blob.name}.incomplete").write_bytes(b"x" * 2_000_000)
    return play.finish(play.start(), "whole")


def _moved(play: Play) -> str:
    wrong = play.finish(play.start(), "whole")
    return wrong or (
        "" if play.hub.repositories[play.repo].refs["main"] == _OTHER else "the branch did not move"
    )


def _cdn(kind: str, times: int = 1, skip: int = 1, **more: object) -> Callable[[], Repository]:
    return lambda: _repository(Fault(kind, "cdn", WEIGHTS, times=times, skip=skip, **more))  # type: ignore[arg-type]


def _resolve(kind: str, times: int = -1, **more: object) -> Callable[[], Repository]:
    return lambda: _repository(Fault(kind, "resolve", WEIGHTS, times=times, **more))  # type: ignore[arg-type]


def _api(times: int, status: int, **headers: str) -> Callable[[], Repository]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda: _repository(Fault("status", "api", times=times, status=status, headers=named))


_AT = 1_500_000
SITUATIONS = (
    Situation("no-fault", "nothing"),
    Situation("drop", "the connection drops at a byte, three times", _cdn("drop", 3, 0, at=_AT)),
    Situation(
        "drop-for-ever",
        "the connection always drops at that byte",
        _cdn("drop", -1, 0, at=_AT),
        r"given up at byte 1,048,576 of",
    ),
    Situation("stall", "the server falls silent at a byte", _cdn("stall", 1, 0, at=_AT)),
    Situation(
        "stall-for-ever",
        "the server always falls silent",
        _cdn("stall", -1, 0, at=_AT),
        "sends nothing within the time limit",
    ),
    Situation("truncate", "the file is sent short", _cdn("truncate", 1, 0, at=_AT)),
    Situation(
        "truncate-for-ever",
        "the file is always sent short",
        _cdn("truncate", -1, 0, at=_AT),
        "given up at byte 1,500,000",
    ),
    Situation("flip", "a bit flips on the way", _cdn("flip", 1, 0, at=_AT)),
    Situation(
        "flip-for-ever",
        "a bit always flips",
        _cdn("flip", -1, 0, at=_AT),
        r"model\.safetensors: 3 times .* sha256",
    ),
    Situation("length-long", "a Content-Length too large", _cdn("length", at=99)),
    Situation("more", "bytes behind the end", _cdn("more", at=99)),
    Situation("etag", "another ETag", _resolve("etag")),
    Situation(
        "no-range",
        "a server that knows no ranges",
        lambda: _repository(
            Fault("drop", "cdn", WEIGHTS, at=_AT), Fault("no-range", "cdn", WEIGHTS, skip=1, times=-1)
        ),
    ),
    Situation(
        "shift",
        "a range answered with other bytes",
        lambda: _repository(
            Fault("drop", "cdn", WEIGHTS, at=_AT), Fault("shift", "cdn", WEIGHTS, at=7, skip=1)
        ),
    ),
    Situation(
        "401", "a repository that is private", lambda: _repository(private=True), "401.*private.*HF_TOKEN"
    ),
    Situation(
        "401-token",
        "a token that is not valid",
        ends="401: the token is not valid.*HF_TOKEN",
        env={"HF_TOKEN": "hf_no"},
    ),
    Situation(
        "403-gated",
        "a licence not accepted, with a token",
        lambda: _repository(gated=True),
        r"403: the repository is gated.*Accept the licence at http",
        {"HF_TOKEN": TOKEN},
    ),
    Situation(
        "401-gated",
        "a licence not accepted, without a token",
        lambda: _repository(gated=True),
        "gated, and no token.*Accept",
    ),
    Situation("403", "forbidden", _resolve("status", status=403), "403: .*may not read it.*HF_TOKEN"),
    Situation(
        "404-file",
        "a file that is gone",
        _resolve("status", status=404),
        r"model\.safetensors: the hub answers 404",
    ),
    Situation(
        "404-repo",
        "a repository that is not there",
        lambda: Repository(commits={}, refs={"main": "c" * 40}),
        "no revision|404|names no commit",
    ),
    Situation("416", "416 once", _cdn("status", status=416)),
    Situation("416-for-ever", "416 for ever", _cdn("status", -1, status=416), "416"),
    Situation(
        "429", "429, to wait 1 s", _resolve("status", 1, skip=1, status=429, headers={"Retry-After": "1"})
    ),
    Situation(
        "429-long",
        "429, to wait 900 s",
        _resolve("status", skip=1, status=429, headers={"Retry-After": "900"}),
        "429.*Wait 900 s",
    ),
    Situation(
        "429-api", "429 from the API, to wait 700 s", _api(-1, 429, Retry_After="700"), "429.*Wait 700 s"
    ),
    Situation("500", "500 twice", _cdn("status", 2)),
    Situation(
        "500-for-ever",
        "500 for one file, for ever",
        _cdn("status", -1),
        r"model\.safetensors: the hub answers 500.*later",
    ),
    Situation("503-api", "503 from the API once", _api(1, 503)),
    Situation("503-api-for-ever", "503 from the API for ever", _api(-1, 503), "answers 503.*later"),
    Situation("loop", "redirects in a circle", _resolve("loop"), "circle"),
    Situation(
        "html",
        "a sign-in page in place of the hub",
        lambda: _repository(Fault("html", "api", times=-1)),
        "not as the hub does.*sign-in",
    ),
    Situation(
        "move",
        "the branch moves in mid-download",
        lambda: Repository(
            _files(), commits={_OTHER: _files(seed=1)}, faults=[Fault("move", "resolve", skip=1)]
        ),
        act=_moved,
    ),
    Situation("no-checksums", "a mirror that states no checksums", lambda: _repository(checksums=False)),
    Situation("disk-full", "a disk that is full, or fills up (2 MB tmpfs)", act=_disk_full),
    Situation("not-writable", "a cache that cannot be written", act=_not_writable),
    Situation("cache-is-a-file", "a file where the cache should be", act=_cache_is_a_file),
    Situation(
        "locked",
        "a lock held by another process, then released",
        env={"MPSPROBE_LOCK_TIMEOUT": "2"},
        act=_locked,
    ),
    Situation(
        "two-at-once",
        "two processes at once",
        lambda: _repository(Fault("slow", "cdn", WEIGHTS, at=2_000_000, skip=2)),
        act=_two_at_once,
    ),
    Situation(
        "sigkill",
        "SIGKILL in mid-download, then again",
        lambda: Repository(_files(8_000_000), faults=[Fault("slow", "cdn", WEIGHTS, at=2_000_000, skip=1)]),
        act=_killed_and_resumed,
    ),
    Situation("wrong-beginning", "an incomplete file of other bytes", act=_wrong_beginning),
    Situation("bit-rot", "a bit flips on the disk later", act=_bit_rot),
    Situation("offline", "offline with a part of the files", act=_offline_partial),
)


def play(situation: Situation, python: str, hub: Hub) -> str:
    """Play a situation with the client of an interpreter; returns what was wrong, or `""`."""
    folder = Path(tempfile.mkdtemp(prefix="mpsprobe-hub-"))
    try:
        one = Play(python, hub, f"org/{situation.name}", folder, situation)
        return situation.act(one) if situation.act else one.finish(one.start(), situation.ends)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _release(python: str) -> str:
    code = "import huggingface_hub; print(huggingface_hub.__version__)"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def _expected(situation: Situation) -> str:
    if situation.name == "locked":
        return "one line, then whole"
    if situation.name in ("disk-full", "not-writable", "cache-is-a-file"):
        return "one line"
    if situation.name == "offline":
        return "one line that names the file"
    return "whole" if situation.ends == "whole" else "one line"


def table(results: dict[str, dict[str, str]]) -> str:
    """Return the table in Markdown: a row for each situation, a column for each release of the client."""
    releases = list(results)
    lines = [
        f"| fault | right end | {' | '.join(f'hub {release}' for release in releases)} |",
        "|---|---|" + "---|" * len(releases),
    ]
    for situation in SITUATIONS:
        cells = []
        for release in releases:
            wrong = results[release][situation.name]
            cells.append(
                "right" if not wrong else wrong if wrong.startswith("not tried") else f"**wrong**: {wrong}"
            )
        lines.append(f"| {situation.what} | {_expected(situation)} | {' | '.join(cells)} |")
    right = {release: sum(not wrong for wrong in ends.values()) for release, ends in results.items()}
    counts = " | ".join(f"{right[release]} of {len(SITUATIONS)} right" for release in releases)
    return "\n".join([*lines, f"| **{len(SITUATIONS)} faults** | | {counts} |"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Play every situation in every interpreter; exit 1 when one ended wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("python", nargs="+", help="interpreters, each with a release of huggingface_hub")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", help="play only the situations whose name matches")
    parser.add_argument("--write", action="store_true", help="put the table into docs/hub.md")
    asked = parser.parse_args(arguments)
    chosen = [s for s in SITUATIONS if not asked.only or re.search(asked.only, s.name)]
    results: dict[str, dict[str, str]] = {}
    for python in asked.python:
        with (
            serve({f"org/{s.name}": s.make() for s in chosen}) as hub,
            ThreadPoolExecutor(asked.jobs) as pool,
        ):
            ends = list(pool.map(lambda s, python=python, hub=hub: play(s, python, hub), chosen))
        results[_release(python)] = {s.name: end for s, end in zip(chosen, ends, strict=True)}
        for s, end in zip(chosen, ends, strict=True):
            if end:
                sys.stderr.write(f"{_release(python)} {s.name}: {end}\n")
    if not asked.only:
        text = table(results)
        sys.stdout.write(text + "\n")
        if asked.write:
            head, _, rest = _DOC.read_text(encoding="utf-8").partition(_BEGIN)
            _DOC.write_text(f"{head}{_BEGIN}\n{text}\n{_END}{rest.partition(_END)[2]}", encoding="utf-8")
    wrong = [
        end for ends in results.values() for end in ends.values() if end and not end.startswith("not tried")
    ]
    return 1 if wrong else 0


#: Situations that a command line plays in CI.
_SHORT = {"no-fault", "flip-for-ever", "401-gated", "429-long", "html"}


def cases() -> Iterator[Case]:
    """Play the situations that a plain download shows, through `mpsprobe run`, and the exit code of `predict`."""
    for situation in SITUATIONS:
        if situation.act is None:
            whole = situation.ends == "whole"
            yield Case(
                situation.name, ("run", f"org/{situation.name}", "--phase", "3", "--device", "cpu"),
                exits={PASSED} if whole else {FAILED},
                says="" if whole else situation.ends.replace(".*", r"[\s\S]*"),
                env={"HF_HUB_DOWNLOAD_TIMEOUT": "1", **situation.env},
                check=_files_passed if whole else None,
                short=situation.name in _SHORT,
            )  # fmt: skip
    for name in ("403-gated", "404-repo", "503-api-for-ever", "html"):
        situation = next(s for s in SITUATIONS if s.name == name)
        yield Case(f"predict-{name}", ("predict", f"org/{name}"), exits={3}, env=dict(situation.env))


def _files_passed(outcome: Outcome) -> str:
    status = outcome.status("download.files"), outcome.status("download.integrity")
    return "" if status == ("pass", "pass") or status == ("pass", "warn") else f"download: {status}"


@contextlib.contextmanager
def surroundings() -> Iterator[dict[str, str]]:
    """Serve every situation's repository while the group runs."""
    with serve({f"org/{s.name}": s.make() for s in SITUATIONS}) as hub:
        yield {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}


if __name__ == "__main__":
    sys.exit(main())
