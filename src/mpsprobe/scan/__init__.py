"""Hazards in a model's source code: what breaks, or silently misbehaves, on MPS, found without running it.

Source is read with `ast`, which parses every syntax of the running Python at 80,000 lines a second. libcst would be
a needless dependency, because nothing is rewritten, and the comments that matter (`# noqa`) are found by
`tokenize`.

The modules work in this order: `sources` finds files -> `scanner` reads one -> `walk` visits the code that a Mac
would run (`truth` decides conditions) -> `detect` holds the detectors -> `scanner` drops what a `# noqa` or the
user excludes -> `formats` draws the report.
"""

from mpsprobe.scan.findings import Level, Report, ScanRule, SourceHazard, Unreadable, all_rules
from mpsprobe.scan.scanner import Options, scan

__all__ = ["Level", "Options", "Report", "ScanRule", "SourceHazard", "Unreadable", "all_rules", "scan"]
