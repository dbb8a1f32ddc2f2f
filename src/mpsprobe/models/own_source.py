"""What `mpsprobe scan` finds in the package that holds a target's own code, for the text of a run."""

from __future__ import annotations

from importlib import metadata

from mpsprobe.errors import MpsprobeError
from mpsprobe.scan import Level, Options
from mpsprobe.scan.findings import all_rules
from mpsprobe.scan.scanner import scan
from mpsprobe.scan.sources import of_package

#: Places that one rule's sentence names.
_PLACES = 12


def findings(package: str, torch: str | None = None) -> list[str]:
    """Return one sentence for each rule that finds errors or warnings in a package's source, its scripts included.

    Args:
        package: dotted name; one that is not installed has no findings.
        torch: release asked about; None for the installed one.
    """
    try:
        found = scan(of_package(package), Options(torch=torch or metadata.version("torch")))
    except MpsprobeError:  # not installed, or no data on that release
        return []
    by_rule: dict[str, list[str]] = {}
    for one in found.findings:
        if one.severity is not Level.NOTE:
            path = one.path.replace("\\", "/")
            inside = path.partition(f"/{package.replace('.', '/')}/")[2] or path
            by_rule.setdefault(one.code, []).append(f"{inside}:{one.line}")
    rules = all_rules()
    sentences = []
    for code, places in by_rule.items():
        shown = ", ".join(dict.fromkeys(places[:_PLACES]))
        more = f" and {len(places) - _PLACES} more" if len(places) > _PLACES else ""
        sentences.append(f"Its source, {code} {rules[code].title}: {shown}{more}. {rules[code].why}")
    return sentences
