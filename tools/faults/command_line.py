"""Words on the command line that mean nothing, or not what was meant."""

from __future__ import annotations

from collections.abc import Iterator

from faults.case import USAGE, Case

PROMISE = "A word that mpsprobe does not know ends in one line that says which, and exit status 2."


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield Case("no-such-command", ("rum",), {USAGE}, "No such command 'rum'", short=True)
    yield Case("no-such-folder", ("run", "./nothing-here"), {USAGE}, "no such folder", short=True)
