"""The rules of `data/rules.toml`, and the hazards, unreadable files and report that a scan yields."""

from __future__ import annotations

import enum
import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import msgspec

from mpsprobe import toml
from mpsprobe.errors import UsageError


class Level(str, enum.Enum):
    """The effect of a hazard on a user with a Mac, worst first. The names are SARIF's levels."""

    ERROR = "error"  #: raises, aborts or never ends where it is reached
    WARNING = "warning"  #: silently different or slow, or an error unless a caller decides otherwise
    NOTE = "note"  #: harmless, or depends on much else

    @property
    def rank(self) -> int:
        """0 for the worst level."""
        return list(Level).index(self)

    def reaches(self, limit: Level) -> bool:
        """Return whether the level is at least as bad as `limit`."""
        return self.rank <= limit.rank


class SourceHazard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One hazard at one place in the source.

    Attributes:
        path: path of the file.
        line, column: begin of the place, both from 1; columns count characters.
        end_line, end_column: end of the place; the column is the one behind the last character.
        code, rule: code and name of the rule, e.g. `"MPS101"`, `"cuda-device"`.
        severity: severity of this place, which may be milder than the rule's.
        message: one sentence about the code that was found.
        why, fix: the effect on a Mac, and the change that avoids it.
        links: addresses of the sources.
        text: the source line, without its indentation.
    """

    path: str
    line: int
    column: int
    end_line: int
    end_column: int
    code: str
    rule: str
    severity: Level
    message: str
    why: str
    fix: str
    links: tuple[str, ...] = ()
    text: str = ""


class Unreadable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that could not be scanned.

    Attributes:
        path: the file.
        line: where its syntax breaks; None when that is not known.
        reason: the reason, in one line.
    """

    path: str
    reason: str
    line: int | None = None


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All results of one scan.

    Attributes:
        target: the target as the user named it.
        torch: the release whose op table and advisories the 8xx rules use.
        files: number of files that were read.
        lines: number of their lines.
        findings: hazards, sorted by path and place.
        unreadable: files that are not Python or not text.
        suppressed: number of findings that a `# noqa: MPSnnn` silenced.
        tests_left_out: number of test files that were not read.
        mpsprobe: version of mpsprobe.
    """

    target: str
    torch: str
    files: int
    lines: int
    findings: tuple[SourceHazard, ...]
    unreadable: tuple[Unreadable, ...] = ()
    suppressed: int = 0
    tests_left_out: int = 0
    mpsprobe: str = ""

    def worst(self, limit: Level) -> bool:
        """Return whether a finding is at least as bad as `limit`."""
        return any(finding.severity.reaches(limit) for finding in self.findings)

    def by_rule(self) -> dict[str, int]:
        """Return the number of findings by code, in the order of the codes."""
        return dict(sorted(Counter(finding.code for finding in self.findings).items()))


DATA = Path(__file__).parent / "data"


class ScanRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of hazard.

    Attributes:
        code: `MPS` and three digits, the first of which is its group. Never reused.
        name: kebab-case.
        severity: the worst severity of its findings.
        title: the hazard in a few words.
        why: the effect on a Mac.
        fix: the change that avoids it.
        links: addresses of the sources.
    """

    code: str
    name: str
    severity: Level
    title: str
    why: str
    fix: str
    links: tuple[str, ...]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rule: tuple[ScanRule, ...]


@lru_cache(maxsize=1)
def all_rules() -> dict[str, ScanRule]:
    """Return every rule by its code, in the order of the codes."""
    return {rule.code: rule for rule in toml.load(DATA / "rules.toml", _File).rule}


def chosen(select: Iterable[str] = (), ignore: Iterable[str] = ()) -> frozenset[str]:
    """Return the codes of the selected rules (all when none is selected), without the ignored ones.

    Args:
        select: codes (`MPS101`), groups (`MPS1`), names (`cuda-device`), or several with commas between.
        ignore: codes, groups or names to leave out, in the same notation.

    Raises:
        UsageError: one fits no rule.
    """
    selected = _expand(select) or frozenset(all_rules())
    return selected - _expand(ignore)


def _expand(texts: Iterable[str]) -> frozenset[str]:
    codes: set[str] = set()
    for text in (part.strip() for whole in texts for part in whole.split(",")):
        if not text:
            continue
        fits = {
            rule.code
            for rule in all_rules().values()
            if rule.name == text.lower()
            or (re.fullmatch(r"MPS\d{0,3}", text.upper()) and rule.code.startswith(text.upper()))
        }
        if not fits:
            raise UsageError(f"{text!r} is no rule.", "`mpsprobe scan --rules` lists them.")
        codes |= fits
    return frozenset(codes)
