"""Hazards in a model's source code: what breaks, or silently misbehaves, on MPS, found without running it.

Source is read with `ast`. It parses every syntax that the running Python knows, at 80,000 lines a second; libcst
would add a dependency for what is not needed here: nothing is rewritten, and the comments that matter (`# noqa`)
are found by `tokenize`.

The way through: `sources` finds files -> `parse` reads one -> `walk` visits what a Mac would run (`truth` tells
which branch that is) -> `detect` has the rules' eyes -> `engine` drops what `noqa` or the user ruled out.
"""

from mpsprobe.scan.engine import Options, scan
from mpsprobe.scan.finding import Finding, Report, Severity, Unreadable
from mpsprobe.scan.rules import Rule, all_rules

__all__ = ["Finding", "Options", "Report", "Rule", "Severity", "Unreadable", "all_rules", "scan"]
