"""Check the advisories: `python tools/lint_advisories.py`. The exit code is 1 when a rule is broken."""

from __future__ import annotations

import sys

from mpsprobe.knowledge import advisories
from mpsprobe.knowledge.advisory_lint import RELEASES, lint, op_exists


def main() -> int:
    """Print each breach of a rule, and return 1 when there is any."""
    problems = list(lint(advisories.load_all(), RELEASES, op_exists))
    sys.stdout.writelines(f"{problem}\n" for problem in problems)
    sys.stdout.write(f"{len(advisories.load_all())} advisories, {len(problems)} problems\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
