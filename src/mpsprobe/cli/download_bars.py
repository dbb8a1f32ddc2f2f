"""Progress of a download on a terminal: a bar for each large file, and one for the total."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from mpsprobe.quantities import decimal_size, seconds

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from mpsprobe.run.journal import Transfer

#: Bars at most; smaller files count in the total.
_MOST = 8


class DownloadBars:
    """Draws a download on stderr while it lasts; nothing where stderr is no terminal, or is not to be written to.

    Args:
        quiet: draw nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet or not sys.stderr.isatty()
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}

    def update(self, event: Transfer) -> None:
        """Draw how far the download is."""
        if self._quiet or not event.total:
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
        """Remove the bars: another writer owns the next line."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
            self._tasks.clear()

    def _started(self) -> Bars:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._bars = Progress(
            TextColumn("    {task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[amount]}"),
            TextColumn("{task.fields[note]}", style="dim"),
            console=Console(stderr=True),
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
