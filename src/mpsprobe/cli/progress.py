"""Show the progress of a long command: permanent lines on stdout, and a temporary line on the terminal.

Where stderr is not a terminal, or must not be redrawn (`TERM=dumb`), only the permanent lines are printed.
"""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mpsprobe.cli.sink import Sink, Styled, uses_colour, width, wrapped
from mpsprobe.quantities import decimal_size, printable, seconds
from mpsprobe.run import Check, Phase, Status, journal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

#: The greatest number of bars; smaller files count in the total.
_MOST = 8
#: The width of a description on the terminal in characters.
_SHOWN = 60
_SIGNS = {
    Status.PASS: ("✓", "green"),
    Status.WARN: ("!", "yellow"),
    Status.FAIL: ("✗", "red"),
    Status.BLOCKED: ("■", "yellow"),
    Status.SKIPPED: ("-", None),
    Status.UNKNOWN: ("?", None),
    Status.CRASHED: ("☠", "red"),
    Status.TIMEOUT: ("⌛", "red"),
    Status.ERROR: ("E", "magenta"),
}


def is_live(sink: Sink) -> bool:
    """Return whether a line on stderr may be redrawn."""
    return sys.stderr.isatty() and not sink.quiet and os.environ.get("TERM") != "dumb"


def _console(sink: Sink) -> Console:
    from rich.console import Console

    colour = uses_colour(sink.colour)
    return Console(stderr=True, no_color=colour is False, force_terminal=colour, highlight=False)


class Waiting:
    """The line of the step in progress: a spinner, its name and its time. It disappears when the step ends.

    Args:
        sink: The sink, which decides whether anything is drawn, and in which colours.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._live = is_live(sink)
        self._bars: Bars | None = None

    def __enter__(self) -> Waiting:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hide()

    def show(self, step: str) -> None:
        """Draw the line of a step, with a spinner that turns until the next call or `hide`."""
        self.hide()
        if not self._live:
            return
        from rich.progress import Progress as Bars
        from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=_console(self._sink),
            transient=True,
        )
        self._bars.start()
        self._bars.add_task(_short(printable(step)), total=None)

    def say(self, text: str) -> None:
        """Print a remark, above whatever is drawn next."""
        self.hide()
        self._sink.remark(text)

    def hide(self) -> None:
        """Remove the line, so that other output can follow."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


class Narrator:
    """Show a run while it goes on: one line for each check, and on a terminal the check in progress."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._phase: Phase | None = None
        self._reasons: set[tuple[Phase, str]] = set()
        self._checks: set[str] = set()
        self._planned: dict[str, journal.Planned] = {}
        self._bars = DownloadBars(sink)
        self._waiting = Waiting(sink)

    def __call__(self, event: journal.Event) -> None:
        """Print or redraw what an event of the journal changes."""
        if isinstance(event, journal.Transfer):
            self._waiting.hide()
            self._bars.update(event)
            return
        self.close()
        if isinstance(event, journal.CheckEnded):
            self.check(event.check)
        elif isinstance(event, journal.Progress):
            self._sink.remark(f"    {event.text}")
        elif isinstance(event, journal.Plan):
            self._planned = {one.id: one for one in event.checks}
        elif isinstance(event, journal.CheckStarted):
            planned = self._planned.get(event.id)
            self._waiting.show(f"{planned.phase.label}: {planned.title}" if planned else event.id)

    def close(self) -> None:
        """Remove the line of the check in progress from the terminal."""
        self._bars.close()
        self._waiting.hide()

    def check(self, check: Check) -> None:
        """Print one line for each check, once; a blocked phase takes one line."""
        if check.id in self._checks:
            return
        self._checks.add(check.id)
        if check.phase is not self._phase:
            self._phase = check.phase
            self._sink.remark(Styled(check.phase.label, bold=True))
        sign, colour = _SIGNS[check.status]
        if check.status is Status.BLOCKED:
            if (check.phase, check.message) in self._reasons:
                return
            shown = {message for _, message in self._reasons}
            self._reasons.add((check.phase, check.message))
            text = check.message
            if text in shown and check.blocked_by is not None:
                text = f"blocked by {check.blocked_by.label}, as above"
            aligned = wrapped(f"    {printable(text)}").removeprefix("   ")
            self._sink.remark("  ", Styled(sign, colour), aligned)
            return
        title, message = printable(check.title), printable(check.message)
        if message and len(title) + len(message) + 6 <= width():
            self._sink.remark("  ", Styled(sign, colour), f" {title}", Styled(f"  {message}", dim=True))
        else:
            self._sink.remark("  ", Styled(sign, colour), f" {title}")
            if message:
                self._sink.remark(Styled(wrapped(f"    {message}"), dim=True))
        if check.remedy and check.status in (Status.FAIL, Status.WARN):
            self._sink.remark(wrapped(f"      fix: {printable(check.remedy)}"))


class DownloadBars:
    """Draw a download on stderr while it lasts, if stderr is a terminal that may be redrawn.

    Args:
        sink: The sink, which decides whether anything is drawn, and in which colours.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._live = is_live(sink)
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}

    def update(self, event: journal.Transfer) -> None:
        """Redraw the bars with the bytes that each file has so far."""
        if not self._live or not event.total:
            return
        bars = self._bars or self._started()
        for file in event.files[:_MOST]:
            if file.stage != "done" or file.name in self._tasks:
                self._draw(
                    bars, file.name, file.done, file.total, file.stage if file.stage != "fetching" else ""
                )
        left = f"{seconds(event.left_s)} left" if event.left_s else ""
        rate = f"{decimal_size(event.rate)}/s" if event.rate else ""
        self._draw(bars, "total", event.done, event.total, "  ".join(filter(None, (rate, left))))

    def close(self) -> None:
        """Remove the bars, so that other output can follow."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
            self._tasks.clear()

    def _started(self) -> Bars:
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            TextColumn("    {task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[amount]}"),
            TextColumn("{task.fields[note]}", style="dim"),
            console=_console(self._sink),
            transient=True,
            auto_refresh=False,
        )
        self._bars.start()
        return self._bars

    def _draw(self, bars: Bars, name: str, done: int, total: int, note: str) -> None:
        fields: dict[str, Any] = {"amount": f"{decimal_size(done)} of {decimal_size(total)}", "note": note}
        if name not in self._tasks:
            shown = name if len(name) <= 36 else f"...{name[-33:]}"
            self._tasks[name] = bars.add_task(shown.replace("[", "\\["), total=total, **fields)
        bars.update(self._tasks[name], completed=done, total=total, **fields)
        bars.refresh()


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
