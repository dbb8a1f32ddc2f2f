"""A scan from files to a report."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mpsprobe import __version__
from mpsprobe.scan.finding import Finding, Report, Unreadable
from mpsprobe.scan.parse import Source, read
from mpsprobe.scan.rules import all_rules, chosen
from mpsprobe.scan.site import Hit
from mpsprobe.scan.sources import Sources, shown
from mpsprobe.scan.tables import torch_release
from mpsprobe.scan.walk import walk


@dataclass(frozen=True)
class Options:
    """What a scan is asked to look for.

    Attributes:
        torch: the release whose op table and advisories count.
        select, ignore: codes, groups or names of rules; see `rules.chosen`.
    """

    torch: str
    select: Sequence[str] = ()
    ignore: Sequence[str] = ()


def scan(sources: Sources, options: Options) -> Report:
    """Scan files.

    Raises:
        UsageError: a code that is no rule, or a torch release without data.
    """
    codes = chosen(options.select, options.ignore)
    release = torch_release(options.torch)
    findings: list[Finding] = []
    unreadable: list[Unreadable] = []
    suppressed = files = lines = 0
    for path in sources.files:
        source = read(path, shown(path))
        if isinstance(source, Unreadable):
            unreadable.append(source)
            continue
        files += 1
        lines += source.text.count("\n")
        try:
            hits = [hit for hit in walk(source.tree, release) if hit.code in codes]
        except RecursionError:
            unreadable.append(Unreadable(source.path, "nested too deeply to be walked"))
            continue
        kept = [hit for hit in hits if not _silenced(hit, source)]
        suppressed += len(hits) - len(kept)
        findings += _findings(kept, source)
    return Report(
        target=sources.target,
        torch=release.torch,
        files=files,
        lines=lines,
        findings=tuple(findings),
        unreadable=tuple(unreadable),
        suppressed=suppressed,
        tests_left_out=sources.tests_left_out,
        mpsprobe=__version__,
    )


def scan_text(text: str, options: Options, path: str = "<text>") -> tuple[Finding, ...]:
    """Findings in a piece of source code.

    Raises:
        SyntaxError: it is not Python.
    """
    source = Source(path, text, ast.parse(text))
    codes = chosen(options.select, options.ignore)
    hits = walk(source.tree, torch_release(options.torch))
    return tuple(_findings([h for h in hits if h.code in codes and not _silenced(h, source)], source))


def _silenced(hit: Hit, source: Source) -> bool:
    """Whether a comment on the first or the last line of the place names its code.

    A statement with a body ends far away: only its first line counts.
    """
    first = getattr(hit.node, "lineno", 1)
    last = first if hasattr(hit.node, "body") else getattr(hit.node, "end_lineno", first)
    return any(hit.code in source.noqa.get(line, ()) for line in (first, last))


def _findings(hits: Iterable[Hit], source: Source) -> list[Finding]:
    found = {(hit.code, *_place(hit.node, source)): hit for hit in hits}
    return [
        Finding(
            path=source.path,
            line=line,
            column=column,
            end_line=end_line,
            end_column=end_column,
            code=code,
            rule=all_rules()[code].name,
            severity=hit.severity or all_rules()[code].severity,
            message=hit.message,
            why=hit.why or all_rules()[code].why,
            mend=hit.mend or all_rules()[code].mend,
            links=tuple(dict.fromkeys((*hit.links, *all_rules()[code].links))),
            text=source.lines[line - 1].strip() if line <= len(source.lines) else "",
        )
        for (code, line, column, end_line, end_column), hit in sorted(
            found.items(), key=lambda pair: (pair[0][1:3], pair[0][0])
        )
    ]


def _place(node: ast.AST, source: Source) -> tuple[int, int, int, int]:
    """Line and column of a node's begin and end, from 1 and in characters (ast counts UTF-8 bytes)."""
    line: int = getattr(node, "lineno", 1)
    begin = (line, _characters(source, line, getattr(node, "col_offset", 0)))
    if hasattr(node, "body") and isinstance(node.body, list):  # a statement's header, not all of its body
        return (*begin, line, len(source.lines[line - 1]) + 1 if line <= len(source.lines) else begin[1])
    end: int = getattr(node, "end_lineno", None) or line
    return (*begin, end, _characters(source, end, getattr(node, "end_col_offset", None) or 0))


def _characters(source: Source, line: int, offset: int) -> int:
    if not 0 < line <= len(source.lines):
        return 1
    return len(source.lines[line - 1].encode()[:offset].decode(errors="replace")) + 1
