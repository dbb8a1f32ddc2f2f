"""`python -m op_support 2.15` writes `src/mpsprobe/knowledge/data/ops/2.15.json` from the wheel on PyPI."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path

import msgspec

from mpsprobe.knowledge._opfile import Wheel, dump
from op_support import wheel
from op_support.release import build

_DATA = Path(__file__).resolve().parents[2] / "src" / "mpsprobe" / "knowledge" / "data" / "ops"
_log = logging.getLogger("op_support")


def main(arguments: list[str]) -> int:
    """Write the files of the named releases; return 1 when a wheel is not the one that was read before."""
    parser = argparse.ArgumentParser(prog="op_support", description=__doc__)
    parser.add_argument("release", nargs="+", help="minor release, e.g. 2.15")
    parser.add_argument(
        "--newest", action="store_true", help="take the newest patch release, not the one on file"
    )
    parser.add_argument("--wheels", type=Path, help="folder that keeps the wheels (100 MB each) between runs")
    parser.add_argument("--output", type=Path, default=_DATA, help="folder to write to")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.setrecursionlimit(20_000)  # a chain of calls in the library is a chain of calls here
    for release in options.release:
        pinned = None if options.newest else _pinned(release)
        with tempfile.TemporaryDirectory(prefix="op_support-") as scratch:
            path = _wheel(pinned, release, options.wheels or Path(scratch))
            unpacked = wheel.unpack(path, Path(scratch) / "root")
            if pinned is not None and pinned.sha256 != unpacked.sha256:
                _log.error("%s: sha256 %s is not the one on file.", path.name, unpacked.sha256)
                return 1
            data = build(unpacked)
        target = options.output / f"{release}.json"
        target.write_bytes(dump(data))
        _log.info("%s: %d ops from %s", target, sum(map(len, data.ops.values())), unpacked.file)
    return 0


class _Source(msgspec.Struct):
    """The part of a release file that states its wheel; it can be read whatever the schema of the rest."""

    wheel: Wheel


def _pinned(release: str) -> Wheel | None:
    path = _DATA / f"{release}.json"
    return msgspec.json.decode(path.read_bytes(), type=_Source).wheel if path.is_file() else None


def _wheel(pinned: Wheel | None, release: str, folder: Path) -> Path:
    if pinned is None:
        return wheel.fetch(f"torch=={release}.*", folder)
    kept = folder / pinned.file
    return kept if kept.is_file() else wheel.fetch(f"torch=={pinned.version}", folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
