"""Faults of the hub, the network, the disk and other processes, each with a real server and the real client.

`cases()` plays them through the command line, as the other groups do. `python -m faults.hub PYTHON...` plays them
in each named interpreter, which may have another release of huggingface_hub, and draws the table of docs/hub.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.hub_server import Repository, serve

from faults.case import FAILED, PASSED, Case, Outcome
from faults.hub_play import CHECKOUT, Situation, play
from faults.hub_situations import SITUATIONS

PROMISE = (
    "Whatever the hub, the network or the disk does, a download ends in a complete snapshot whose every checksum was "
    "compared, or in one line that names the file, the status and what to do."
)
_DOC = CHECKOUT / "docs" / "hub.md"
_BEGIN, _END = "<!-- hub faults: begin -->", "<!-- hub faults: end -->"


def _release(python: str) -> str:
    code = "import huggingface_hub; print(huggingface_hub.__version__)"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def _expected(situation: Situation) -> str:
    if situation.name == "locked":
        return "one line, then whole"
    if situation.name in ("disk-full", "not-writable", "cache-is-a-file"):
        return "one line"
    if situation.name in ("offline", "offline-damaged"):
        return "one line that names the file"
    return "whole" if situation.ends == "whole" else "one line"


def table(results: dict[str, dict[str, str]]) -> str:
    """Return the results as a Markdown table: a row for each situation, a column for each release of the client.

    Args:
        results: What is wrong, by release and name of the situation; `""` for a right end.
    """
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
    """Play the situations in the interpreters that the arguments name; return 1 when one ended wrong, else 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("python", nargs="+", help="interpreters, each with a release of huggingface_hub")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", help="play only the situations whose name matches")
    parser.add_argument("--write", action="store_true", help="put the table into docs/hub.md")
    parser.add_argument(
        "--keep", type=Path, help="file of earlier results: what was right is not played again"
    )
    asked = parser.parse_args(arguments)
    chosen = [s for s in SITUATIONS if not asked.only or re.search(asked.only, s.name)]
    kept = json.loads(asked.keep.read_text()) if asked.keep and asked.keep.exists() else {}
    results: dict[str, dict[str, str]] = {}
    for python in asked.python:
        release = _release(python)
        results[release] = {name: end for name, end in kept.get(release, {}).items() if not end}
        open_ones = [s for s in chosen if s.name not in results[release]]
        with serve(_repositories(open_ones)) as hub, ThreadPoolExecutor(asked.jobs) as pool:
            ends = list(pool.map(lambda s, python=python, hub=hub: play(s, python, hub), open_ones))
        results[release] |= {s.name: end for s, end in zip(open_ones, ends, strict=True)}
        for name, end in results[release].items():
            if end:
                sys.stderr.write(f"{release} {name}: {end}\n")
        if asked.keep:
            asked.keep.write_text(json.dumps({**kept, **results}, indent=1))
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


#: The situations that CI plays through the command line.
_SHORT = {"no-fault", "flip-for-ever", "401-gated", "429-long", "html"}


def _repositories(situations: Iterable[Situation]) -> dict[str, Repository]:
    return {name: make() for one in situations for name, make in one.repositories.items()}


def cases() -> Iterator[Case]:
    """Yield the situations of a plain download, played through `mpsprobe run`, and a few through `mpsprobe predict`."""
    for situation in SITUATIONS:
        if situation.act is None and situation.cli:
            whole = situation.ends == "whole"
            yield Case(
                situation.name, ("run", f"org/{situation.name}", "--phase", "3", "--device", "cpu"),
                exits={PASSED} if whole else {FAILED},
                says="" if whole else situation.ends.replace(".*", r"[\s\S]*").replace(" ", r"\s+"),
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
    """Serve every situation's repository while the group runs.

    Yields:
        The environment variables that send the client to that server.
    """
    with serve(_repositories(SITUATIONS)) as hub:
        yield {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}


if __name__ == "__main__":
    sys.exit(main())
