"""Check that all dependencies have wheels for Apple silicon: each Python, each macOS, two sets of versions.

    python tools/mac_wheels.py [--python 3.10 3.13] [--macos 12 15] [--set pinned]

asks pip what it would install on a Mac (`pip install --dry-run --platform macosx_15_0_arm64 --only-binary=:all:`),
follows what each wheel requires there (markers are evaluated for a Mac, not for this machine), and prints one row for
each Python and macOS: what is missing, and the newest torch that macOS can have. The sets are those of
`requirements/constraints.txt` (pinned) and the newest that pyproject.toml allows.

Exit code: 0 all found, 1 something has no wheel. Nothing is installed; wheels without separate metadata are fetched.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_ROOT = Path(__file__).parents[1]
_PYTHONS = ("3.10", "3.11", "3.12", "3.13")
_SYSTEMS = ("12", "13", "14", "15")


@dataclass
class Row:
    """The packages that a Python on a macOS version gets from PyPI.

    Attributes:
        python: The version of Python.
        macos: The version of macOS.
        found: The version of each distribution.
        missing: The requirements without a wheel, with pip's last line.
    """

    python: str
    macos: str
    found: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def follow(first: Iterable[str], python: str, macos: str, pinned: dict[str, Requirement]) -> Row:
    """Return the wheels that requirements, and all that these require in turn, have on that Mac."""
    row, environment = Row(python, macos), mac_environment(python)
    wanted: dict[str, list[Requirement]] = {}
    pending = [
        requirement for requirement in map(Requirement, first) if applies(requirement, environment, "")
    ]
    extras: dict[str, set[str]] = {}
    while pending:
        batch: list[str] = []
        for requirement in pending:
            name = str(canonicalize_name(requirement.name))
            if name not in wanted and name in pinned and applies(pinned[name], environment, ""):
                wanted[name] = [pinned[name]]
            wanted.setdefault(name, []).append(requirement)
            extras.setdefault(name, set()).update(requirement.extras)
            if name not in row.found and name not in row.missing:
                batch.append(name)
        pending = []
        for name in dict.fromkeys(batch):
            specifier = ",".join(sorted({str(one.specifier) for one in wanted[name] if one.specifier}))
            version, requires = ask(f"{name}{specifier}", python, macos)
            if version is None:
                row.missing[name] = requires[0]
                continue
            row.found[name] = version
            pending += [
                one
                for one in map(Requirement, requires)
                if any(applies(one, environment, extra) for extra in ("", *extras[name]))
            ]
    return row


def mac_environment(python: str) -> dict[str, str]:
    """Return the values of requirement markers on an Apple-silicon Mac."""
    return {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_name": "cpython",
        "implementation_version": f"{python}.0",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "sys_platform": "darwin",
        "platform_system": "Darwin",
        "platform_machine": "arm64",
        "platform_release": "24.0.0",
        "platform_version": "",
    }


def applies(requirement: Requirement, environment: dict[str, str], extra: str) -> bool:
    """Return whether the markers of a requirement hold in an environment."""
    return requirement.marker is None or requirement.marker.evaluate({**environment, "extra": extra})


_asked: dict[tuple[str, str, str], tuple[str | None, list[str]]] = {}


def ask(requirement: str, python: str, macos: str) -> tuple[str | None, list[str]]:
    """Return the version and requirements of the wheel that pip would install; `(None, [reason])` if there is none."""
    key = requirement, python, macos
    if key not in _asked:
        _asked[key] = _ask(*key)
    return _asked[key]


def _ask(requirement: str, python: str, macos: str) -> tuple[str | None, list[str]]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--dry-run",
            "--no-deps",
            "--ignore-installed",
        ]
        command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
        command += [
            "--platform",
            f"macosx_{macos}_0_arm64",
            "--target",
            folder,
            "--report",
            str(report),
            requirement,
        ]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode or not report.exists():
            errors = [line for line in ran.stderr.splitlines() if line.startswith("ERROR")]
            return None, [(errors or ["no answer"])[-1].removeprefix("ERROR: ")]
        (item,) = json.loads(report.read_text())["install"]
        metadata = item["metadata"]
        return metadata["version"], metadata.get("requires_dist", [])


def dependencies() -> list[str]:
    """Return the requirements in pyproject.toml."""
    project = msgspec.toml.decode((_ROOT / "pyproject.toml").read_bytes())["project"]
    return list(project["dependencies"])


def pins() -> dict[str, Requirement]:
    """Return the requirement with which constraints.txt pins each package, by canonical name."""
    lines = (_ROOT / "requirements" / "constraints.txt").read_text().splitlines()
    stripped = [line.split("#")[0].strip() for line in lines]
    return {str(canonicalize_name(one.name)): one for one in map(Requirement, filter(None, stripped))}


def main() -> int:
    """Print the table; return 1 when something has no wheel."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", nargs="+", default=_PYTHONS)
    parser.add_argument("--macos", nargs="+", default=_SYSTEMS)
    parser.add_argument("--set", nargs="+", default=["pinned", "newest"], choices=["pinned", "newest"])
    chosen = parser.parse_args()
    failed = False
    sys.stdout.write(
        "| set | Python | macOS | distributions | torch | without a wheel |\n|---|---|---|---|---|---|\n"
    )
    for name in chosen.set:
        for python in chosen.python:
            for macos in chosen.macos:
                row = follow(dependencies(), python, macos, pins() if name == "pinned" else {})
                failed |= bool(row.missing)
                missing = "; ".join(f"{one} ({why})" for one, why in row.missing.items()) or "none"
                torch = row.found.get("torch", "none")
                sys.stdout.write(
                    f"| {name} | {python} | {macos} | {len(row.found)} | {torch} | {missing} |\n"
                )
                sys.stdout.flush()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
