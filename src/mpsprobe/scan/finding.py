"""What a scan yields: findings, files that could not be read, and the report that holds both."""

from __future__ import annotations

import enum
from collections import Counter

import msgspec


class Severity(str, enum.Enum):
    """What a finding does to somebody with a Mac, worst first. The names are SARIF's levels."""

    ERROR = "error"  #: raises, aborts or never ends where it is reached
    WARNING = "warning"  #: silently different or slow, or an error unless a caller decides otherwise
    NOTE = "note"  #: harmless, or depends on much else

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return list(Severity).index(self)

    def reaches(self, limit: Severity) -> bool:
        """Whether it is at least as bad as `limit`."""
        return self.rank <= limit.rank


class Finding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One place in the source.

    Attributes:
        path: the file, as it was found.
        line, column: where it begins, both from 1; columns count characters.
        end_line, end_column: where it ends; the column is the one behind the last character.
        code, rule: of its rule, e.g. `"MPS101"`, `"cuda-device"`.
        severity: of this finding, which may be milder than its rule's.
        message: what is there, in one sentence.
        why, mend: what happens on a Mac, and what to do.
        links: sources.
        text: the source line, without its indentation.
    """

    path: str
    line: int
    column: int
    end_line: int
    end_column: int
    code: str
    rule: str
    severity: Severity
    message: str
    why: str
    mend: str
    links: tuple[str, ...] = ()
    text: str = ""


class Unreadable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that could not be scanned.

    Attributes:
        path: the file.
        line: where its syntax breaks; None when that is not known.
        reason: in one line.
    """

    path: str
    reason: str
    line: int | None = None


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything one scan found.

    Attributes:
        target: what was asked for.
        torch: the release whose op table and advisories the 8xx rules went by.
        files: how many files were read.
        lines: how many lines they have.
        findings: by path and place.
        unreadable: files that are not Python or not text.
        suppressed: findings that a `# noqa: MPSnnn` took out.
        tests_left_out: test files that were not looked at.
        mpsprobe: version.
    """

    target: str
    torch: str
    files: int
    lines: int
    findings: tuple[Finding, ...]
    unreadable: tuple[Unreadable, ...] = ()
    suppressed: int = 0
    tests_left_out: int = 0
    mpsprobe: str = ""

    def worst(self, limit: Severity) -> bool:
        """Whether a finding is at least as bad as `limit`."""
        return any(finding.severity.reaches(limit) for finding in self.findings)

    def by_rule(self) -> dict[str, int]:
        """Number of findings by code, in the order of the codes."""
        return dict(sorted(Counter(finding.code for finding in self.findings).items()))
