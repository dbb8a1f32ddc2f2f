"""Scan files and report: read, walk, and drop what a comment or the user excludes."""

from __future__ import annotations

import ast
import io
import re
import stat
import tokenize
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mpsprobe import __version__
from mpsprobe.scan.findings import Report, SourceHazard, Unreadable, all_rules, chosen
from mpsprobe.scan.lookup import torch_release
from mpsprobe.scan.position import Hit
from mpsprobe.scan.sources import Sources, shown
from mpsprobe.scan.walk import walk

#: Larger files are data or generated; the largest module of transformers has 400 kB.
MAX_BYTES = 20_000_000
_NOQA = re.compile(r"#\s*noqa\s*:\s*(?P<codes>[A-Z][A-Z0-9]+(?:[\s,]+[A-Z][A-Z0-9]+)*)", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """A Python file that was read and parsed.

    Attributes:
        path: The path as reports show it.
        text: The content, decoded as Python decodes it.
        tree: The syntax tree.
    """

    path: str
    text: str
    tree: ast.Module

    @cached_property
    def lines(self) -> list[str]:
        """Return the lines of the source as Python counts them."""
        return io.StringIO(self.text, newline=None).read().split("\n")

    @cached_property
    def noqa(self) -> dict[int, frozenset[str]]:
        """Return the codes that `# noqa: MPSnnn` comments name, by line. A bare `# noqa` belongs to other tools."""
        if _NOQA.search(self.text) is None:  # reading the tokens takes as long as parsing
            return {}
        found: dict[int, frozenset[str]] = {}
        try:
            for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
                match = _NOQA.search(token.string) if token.type == tokenize.COMMENT else None
                if match:
                    found[token.start[0]] = frozenset(re.split(r"[\s,]+", match["codes"].upper()))
        except (tokenize.TokenError, SyntaxError):  # ast accepted the file, so the tokens read so far count
            pass
        return found


def read(path: Path, shown: str) -> Source | Unreadable:
    """Read and parse one file; return every problem as an `Unreadable` and raise nothing."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            return Unreadable(shown, "not a regular file")
        if about.st_size > MAX_BYTES:
            return Unreadable(shown, f"larger than {MAX_BYTES // 1_000_000} MB: not read")
        data = path.read_bytes()
    except OSError as problem:
        return Unreadable(shown, f"cannot be read: {problem.strerror or problem}")
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in the scanned file must not warn here
            tree = ast.parse(text, filename=shown)
    except SyntaxError as problem:
        return Unreadable(shown, f"not valid Python here: {problem.msg}", problem.lineno)
    except UnicodeDecodeError as problem:
        return Unreadable(shown, f"not {problem.encoding} text (byte {problem.start})")
    except (ValueError, LookupError) as problem:  # null bytes, or an unknown encoding
        return Unreadable(shown, str(problem))
    except (RecursionError, MemoryError):
        return Unreadable(shown, "nested too deeply to be parsed")
    return Source(shown, text, tree)


@dataclass(frozen=True)
class Options:
    """What a scan looks for: the torch release and the rules.

    Attributes:
        torch: The release whose op table and advisories are used.
        select: Codes, groups or names of the rules to apply; see `findings.chosen`.
        ignore: Codes, groups or names of the rules to leave out; see `findings.chosen`.
    """

    torch: str
    select: Sequence[str] = ()
    ignore: Sequence[str] = ()


def scan(sources: Sources, options: Options) -> Report:
    """Scan files with the selected rules; files that cannot be read are listed in the report.

    Raises:
        UsageError: A code matches no rule, or there is no data on the torch release.
    """
    codes = chosen(options.select, options.ignore)
    release = torch_release(options.torch)
    findings: list[SourceHazard] = []
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


def scan_text(text: str, options: Options, path: str = "<text>") -> tuple[SourceHazard, ...]:
    """Return the findings in a piece of source code, by line and column.

    Args:
        text: The source code.
        options: The torch release and the rules.
        path: The path to show in findings.

    Raises:
        SyntaxError: The text is not Python.
        UsageError: A code matches no rule, or there is no data on the torch release.
    """
    source = Source(path, text, ast.parse(text))
    codes = chosen(options.select, options.ignore)
    hits = walk(source.tree, torch_release(options.torch))
    return tuple(_findings([h for h in hits if h.code in codes and not _silenced(h, source)], source))


def _silenced(hit: Hit, source: Source) -> bool:
    """Return whether a comment on the first or last line of a hit names its code.

    For a statement with a body only the first line counts, because its end is far away.
    """
    first = getattr(hit.node, "lineno", 1)
    last = first if hasattr(hit.node, "body") else getattr(hit.node, "end_lineno", first)
    return any(hit.code in source.noqa.get(line, ()) for line in (first, last))


def _findings(hits: Iterable[Hit], source: Source) -> list[SourceHazard]:
    found = {(hit.code, *_place(hit.node, source)): hit for hit in hits}
    return [
        SourceHazard(
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
            fix=hit.fix or all_rules()[code].fix,
            links=tuple(dict.fromkeys((*hit.links, *all_rules()[code].links))),
            text=source.lines[line - 1].strip() if line <= len(source.lines) else "",
        )
        for (code, line, column, end_line, end_column), hit in sorted(
            found.items(), key=lambda pair: (pair[0][1:3], pair[0][0])
        )
    ]


def _place(node: ast.AST, source: Source) -> tuple[int, int, int, int]:
    """Return line and column of a node's beginning and end, from 1 and in characters (ast counts UTF-8 bytes)."""
    line: int = getattr(node, "lineno", 1)
    begin = (line, _characters(source, line, getattr(node, "col_offset", 0)))
    if hasattr(node, "body") and isinstance(node.body, list):  # the header of a statement, without its body
        return (*begin, line, len(source.lines[line - 1]) + 1 if line <= len(source.lines) else begin[1])
    end: int = getattr(node, "end_lineno", None) or line
    return (*begin, end, _characters(source, end, getattr(node, "end_col_offset", None) or 0))


def _characters(source: Source, line: int, offset: int) -> int:
    if not 0 < line <= len(source.lines):
        return 1
    return len(source.lines[line - 1].encode()[:offset].decode(errors="replace")) + 1
