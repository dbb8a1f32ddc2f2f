"""`mpsprobe explain`: explain an error, a warning or a log of an MPS run, with the fix."""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

import click

from mpsprobe.cli.sink import Sink, pass_sink, width
from mpsprobe.errors import UsageError
from mpsprobe.knowledge import ops
from mpsprobe.knowledge.error_texts import Cause
from mpsprobe.knowledge.explain import Explained, Explanation, explain

#: A single word that can only be the name of a file.
_NAMES_A_FILE = re.compile(r"(?:~|\.{1,2})?/[^\s:'\"]+|[\w./-]+\.(?:log|txt|out|err|md|json)")

#: The exit code when nothing in the text is known.
NOTHING_KNOWN = 1


class _TextCommand(click.Command):
    """A command whose text may begin with `-[`, as lines of Metal do: that is no option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        texts = [one for one in args if one.startswith("-[")]
        rest = [one for one in args if not one.startswith("-[")]
        return super().parse_args(ctx, [*rest, "--", *texts] if texts else args)


@click.command("explain", cls=_TextCommand)
@click.argument("text", nargs=-1, required=True, metavar="TEXT|FILE|-")
@click.option("--torch", metavar="VERSION", help="The torch release that wrote it, e.g. 2.8.0.")
@click.option("--macos", metavar="VERSION", help="The macOS it ran on, e.g. 15.5.")
@pass_sink
def command(sink: Sink, text: tuple[str, ...], torch: str | None, macos: str | None) -> None:
    """Explain an error, a warning or a log: the op, the cause, the release that fixes it, and the workaround.

    TEXT is the text itself, a file that holds it, or - for standard input.

    Exit codes: 0 something was explained, 1 nothing in the text is known, 2 usage, 4 mpsprobe failed.
    """
    result = explain(_read(text), torch, macos)
    if result.findings:
        sink.result(render(result), result, verbatim=True)
        return
    sink.result(
        "mpsprobe knows no message in this text.\n"
        "It looks for what torch, Metal, macOS, pip and the libraries around them write on Macs. Paste the whole "
        "traceback with its last lines.",
        result,
    )
    sys.exit(NOTHING_KNOWN)


def _read(words: tuple[str, ...]) -> str:
    """Return the text that the words give, name or pipe.

    Raises:
        UsageError: There is no text, or no file of that name.
    """
    source = words[0] if len(words) == 1 else ""
    if source == "-":
        text = sys.stdin.buffer.read().decode("utf-8", errors="replace")
    elif _is_file(source):
        text = _content(Path(source))
    elif _NAMES_A_FILE.fullmatch(source):
        raise UsageError(f"There is no file {source}.", "Give the text itself in quotes, or pipe it to -.")
    else:
        text = " ".join(words)
    if not text.strip():
        raise UsageError("There is no text to explain.", "Give it in quotes, or as a file, or pipe it to -.")
    return text


def _content(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", "Pipe the text to -.") from error


def _is_file(text: str) -> bool:
    try:
        path = Path(text)
        if path.is_dir() and "/" in text:
            raise UsageError(f"{text} is a folder.", "Give a file, the text in quotes, or pipe it to -.")
        return path.is_file()
    except (OSError, ValueError):  # a text may be too long for a file name, or hold a zero byte
        return False


def render(result: Explanation) -> str:
    """Return the explanation as text, wrapped."""
    parts = [_finding(finding) for finding in result.findings]
    if result.torch_from == "commit":
        parts.append(f"The commit in the error is torch {result.torch}'s.")
    if result.too_old and not any(_needs_no_upgrade(finding) for finding in result.findings):
        parts.append(
            f"torch {result.too_old} is older than all known here ({ops.releases()[0]}): upgrade it first."
        )
    return "\n\n".join(parts)


#: Causes that a newer torch does not remove.
_NOT_TORCH = {Cause.INSTALL, Cause.THIRD_PARTY, Cause.CUDA_ONLY, Cause.ARGUMENTS}


def _needs_no_upgrade(finding: Explained) -> bool:
    """Return whether a finding names a release or a newer torch itself, or is about something else."""
    names = re.search(
        r"\btorch(?: to)? \d|\btorch>=|\b(?:newer|update|upgrade)\b[^.;]{0,20}\btorch\b", finding.fix
    )
    return finding.cause in _NOT_TORCH or bool(finding.fixed_in) or names is not None


def _finding(finding: Explained) -> str:
    about = ", ".join(part for part in (finding.op, finding.dtype) if part)
    head = f"{finding.cause.value}{': ' + about if about else ''}"
    times = f" ({finding.count} times)" if finding.count > 1 else ""
    rows = [
        ("text", f"{finding.excerpt}{times}"),
        ("means", finding.means),
        ("do", finding.fix),
        ("fixed", finding.fixed),
        ("fallback", _fallback(finding)),
        ("in wheels", finding.releases),
        ("your line", _line(finding)),
        *(("advisory", f"{id_}: {title}") for id_, title in finding.advisories.items()),
        *(("read", link) for link in finding.links),
    ]
    return "\n".join([head, *(_row(name, value) for name, value in rows if value)])


def _fallback(finding: Explained) -> str:
    why = f": {finding.fallback_why}" if finding.fallback_why else ""
    if finding.fallback == "yes":
        return f"PYTORCH_ENABLE_MPS_FALLBACK=1, set before Python starts, helps{why}."
    if finding.fallback == "no" and finding.fallback_why:
        return f"PYTORCH_ENABLE_MPS_FALLBACK=1 does not help{why}."
    return "PYTORCH_ENABLE_MPS_FALLBACK=1 does not help." if finding.fallback == "no" else ""


def _line(finding: Explained) -> str:
    frame = finding.frame
    if frame is None:
        return ""
    place = f"{frame.path}:{frame.line}" + (f" in {frame.function}" if frame.function else "")
    return f"{place}: {frame.code}" if frame.code else place


def _row(name: str, value: str) -> str:
    lead = f"  {name + ':':<11}"
    return textwrap.fill(
        value,
        width(),
        initial_indent=lead,
        subsequent_indent=" " * len(lead),
        break_long_words=False,
        break_on_hyphens=False,
    )
