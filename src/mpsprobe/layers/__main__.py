"""The child process of a comparison: `python -m mpsprobe.layers JOB.json MESSAGES FLIGHT`.

Everything that may abort or hang happens here. Progress and the answer go to MESSAGES, one JSON line each; the
module in flight goes to FLIGHT, which can be read after a crash.
"""

from __future__ import annotations

import faulthandler
import signal
import sys
from pathlib import Path

import msgspec

from mpsprobe.errors import MpsprobeError
from mpsprobe.layers.supervised import Failed, Found, Job, Message, Step
from mpsprobe.phases.check import LinkFailed
from mpsprobe.run.own_file import OwnFile
from mpsprobe.trace.flight import FlightRecorder

#: The exit code for a target whose own code raised, as for the suite's blocked checks.
BLOCKED = 3


def main(job_path: str, messages_path: str, flight_path: str) -> None:
    """Do a job, and write its progress and the answer, which may be that it failed.

    Args:
        job_path: The file with the job as JSON.
        messages_path: The file for progress and answer, one line of JSON each.
        flight_path: The file of the flight recorder.
    """
    from mpsprobe.layers import diverge
    from mpsprobe.layers.module_calls import Marker
    from mpsprobe.models import late_imports

    late_imports.postpone()
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1, all_threads=True)
    job = msgspec.json.decode(Path(job_path).read_bytes(), type=Job)
    out = OwnFile(Path(messages_path))

    def tell(message: Message) -> None:
        out.write(msgspec.json.encode(message) + b"\n")

    def announce(text: str, limit_s: float) -> None:
        tell(Step(text, limit_s))

    with FlightRecorder(flight_path) as flight:
        marker = Marker(flight)
        try:
            if job.output is not None:
                tell(diverge.write_baseline(job, announce, marker))
            else:
                tell(Found(diverge.diverge(job, announce, marker)))
        except MpsprobeError as problem:
            tell(Failed(problem.what, problem.hint, problem.exit_code))
        except LinkFailed as problem:
            result = problem.result
            tell(Failed(f"{problem.phase.label}: {result.message}", result.remedy, BLOCKED, result.output))


if __name__ == "__main__":
    main(*sys.argv[1:])
