"""Phase 3: the target's files on this machine."""

from __future__ import annotations

from mpsprobe.phases import download
from mpsprobe.phases.check import CheckSpec
from mpsprobe.phases.download import Obtained
from mpsprobe.suite.checks_of import Judge, checks_of


@checks_of(download.CHECKS)
def test_download(check: CheckSpec[Obtained], mps_snapshot: Obtained, mps_judge: Judge) -> None:
    """Make one check of phase 3: the target's files on this machine."""
    mps_judge(check, mps_snapshot)
