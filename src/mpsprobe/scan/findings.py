"""The rules of `data/rules.toml`, and the results of a scan: hazards, unreadable files and the report."""

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
    """How much a hazard affects a user with a Mac, worst first; the names are SARIF's levels."""

    ERROR = "error"  #: raises, aborts or never ends when it is reached
    WARNING = "warning"  #: silently different or slow, or an error unless a caller decides otherwise
    NOTE = "note"  #: harmless, or depends on many other conditions

    @property
    def rank(self) -> int:
        """Return the position in order of harm: 0 for the worst."""
        return list(Level).index(self)

    def reaches(self, limit: Level) -> bool:
        """Return whether the level is at least as bad as `limit`."""
        return self.rank <= limit.rank


class SourceHazard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One hazard at one place in the source.

    Attributes:
        path: The path of the file.
        line: The first line, from 1.
        column: The first column, from 1, in characters.
        end_line: The last line, from 1.
        end_column: The column after the last character, from 1.
        code: The code of the rule, such as `"MPS101"`.
        rule: The name of the rule, such as `"cuda-device"`.
        severity: The severity at this place, which may be milder than the rule's.
        message: One sentence about the code that was found.
        why: The effect on a Mac.
        fix: The change that avoids it.
        links: The addresses of the sources.
        text: The source line, without its indentation.
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
        path: The path of the file.
        reason: The reason, in one line.
        line: The line of the syntax error; None when unknown.
    """

    path: str
    reason: str
    line: int | None = None


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The results of a scan: its findings and the files that could not be read.

    Attributes:
        target: The target as the user named it.
        torch: The release whose op table and advisories the 8xx rules use.
        files: The number of files that were read.
        lines: The number of lines in these files.
        findings: The hazards, sorted by path and place.
        unreadable: The files that could not be read, decoded, parsed or walked.
        suppressed: The number of findings that a `# noqa: MPSnnn` silenced.
        tests_left_out: The number of test files that were not read.
        mpsprobe: The version of mpsprobe.
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
        """Return whether the report has a finding at least as bad as `limit`."""
        return any(finding.severity.reaches(limit) for finding in self.findings)

    def by_rule(self) -> dict[str, int]:
        """Return the number of findings by code, in the order of the codes."""
        return dict(sorted(Counter(finding.code for finding in self.findings).items()))


DATA = Path(__file__).parent / "data"


class ScanRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rule of `data/rules.toml`: a kind of hazard that the scan reports.

    Attributes:
        code: `MPS` and three digits, of which the first is its group. A code is never reused.
        name: A name in kebab-case.
        severity: The worst severity of its findings.
        title: The hazard in a few words.
        why: The effect on a Mac.
        fix: The change that avoids it.
        links: The addresses of the sources.
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
        select: Codes (`MPS101`), groups (`MPS1`) or names (`cuda-device`); one text may hold several with
            commas between.
        ignore: Codes, groups or names to leave out, in the same notation.

    Raises:
        UsageError: One of them matches no rule.
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
