"""Known failures: which checks fail, and which must not be tried, by torch, macOS and chip.

There are two files, as in the array-API tests: `xfails` lists checks that fail (wrong results, errors), `skips`
lists those that would crash. An entry that matches nothing is reported, so that a file does not outlive its
reasons.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from mpsprobe import toml
from mpsprobe.errors import UsageError
from mpsprobe.phases.check import Result
from mpsprobe.run import Mac, Status


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Checks that are expected to fail on certain Macs, with the reason.

    Attributes:
        torch: A version specifier of torch, such as `"==2.8.*"`; empty for any.
        macos: A version specifier of macOS; empty for any.
        chip: Words of the chip's name, such as `"M1"` or `"M1 Max"`; empty for any.
        ids: Ids of checks, as in run.json; a `*` at the end matches any text (elsewhere it belongs to the id).
        reason: The reason, preferably with a link.
    """

    torch: str = ""
    macos: str = ""
    chip: str = ""
    ids: list[str]
    reason: str = ""

    def applies(self, mac: Mac) -> bool:
        """Return whether the entry applies to a Mac. An unknown fact matches only an entry without that condition."""
        words = re.findall(r"\w+", (mac.chip or "").lower())
        return (
            _within(mac.torch, self.torch)
            and _within(mac.macos, self.macos)
            and all(word in words for word in self.chip.lower().split())
        )


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An expectation file: `[[expect]]` tables."""

    expect: list[Entry] = []


@dataclass(frozen=True)
class Expectations:
    """The known failures on one Mac.

    Attributes:
        xfails: The reason for each pattern of ids.
        skips: The reason for not running a check, by pattern of ids.
    """

    xfails: dict[str, str] = field(default_factory=dict)
    skips: dict[str, str] = field(default_factory=dict)

    def skip(self, id_: str) -> str | None:
        """Return a sentence with the reason for skipping a check; None when it is not skipped."""
        reason = _find(self.skips, id_)
        return None if reason is None else f"A crash is expected{f': {reason}' if reason else ''}."

    def judged(self, id_: str, result: Result) -> Result:
        """Return a result as a warning if its check is expected to fail, whether it fails or not.

        Other results, and one that is neither a pass nor a failure, are returned unchanged.
        """
        reason = _find(self.xfails, id_)
        if reason is None:
            return result
        if result.status in (Status.FAIL, Status.CRASHED, Status.TIMEOUT):
            why = f" ({reason})" if reason else ""
            return replace(result, status=Status.WARN, message=f"Fails as expected{why}: {result.message}")
        if result.status in (Status.PASS, Status.WARN):
            message = f"Expected to fail, but does not. {result.message}".strip()
            return replace(result, status=Status.WARN, message=message, remedy="Take it out of the file.")
        return result

    def unused(self, ids: Iterable[str]) -> list[str]:
        """Return the patterns that match none of these checks."""
        present = list(ids)
        return [
            pattern
            for pattern in (*self.xfails, *self.skips)
            if not any(_matches(pattern, id_) for id_ in present)
        ]


@dataclass(frozen=True)
class Files:
    """The entries of both files, for any Mac."""

    xfails: list[Entry] = field(default_factory=list)
    skips: list[Entry] = field(default_factory=list)

    def on(self, mac: Mac) -> Expectations:
        """Return those entries of both files whose torch, macOS and chip match a Mac."""
        return Expectations(_about(self.xfails, mac), _about(self.skips, mac))


def read(xfails: Path | None = None, skips: Path | None = None) -> Files:
    """Read the expectation files; None stands for a file without entries.

    Raises:
        UsageError: A file is missing, does not fit the schema, or holds a version specifier that is not valid.
    """
    return Files(_entries(xfails), _entries(skips))


def _entries(path: Path | None) -> list[Entry]:
    if path is None:
        return []
    if not path.is_file():
        raise UsageError(f"{path}: no such expectation file.", "`mpsprobe expect RUN.json` writes one.")
    entries = toml.load(path, File, UsageError).expect
    for entry in entries:
        for specifier in (entry.torch, entry.macos):
            try:
                SpecifierSet(specifier)
            except InvalidSpecifier as problem:
                raise UsageError(
                    f"{path}: {specifier!r} is no version specifier.", 'One looks like "==2.8.*".'
                ) from problem
    return entries


def _about(entries: list[Entry], mac: Mac) -> dict[str, str]:
    return {id_: entry.reason for entry in entries if entry.applies(mac) for id_ in entry.ids}


def _find(patterns: dict[str, str], id_: str) -> str | None:
    return next((reason for pattern, reason in patterns.items() if _matches(pattern, id_)), None)


def _matches(pattern: str, id_: str) -> bool:
    return pattern == id_ or (pattern.endswith("*") and id_.startswith(pattern[:-1]))


def _within(version: str | None, specifier: str) -> bool:
    if not specifier:
        return True
    if not version:
        return False
    try:
        return SpecifierSet(specifier, prereleases=True).contains(Version(Version(version).public))
    except InvalidVersion:
        return False
