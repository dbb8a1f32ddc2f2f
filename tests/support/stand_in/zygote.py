"""A Python that has imported torch and mpsprobe, and forks for each program it is given: an import costs seconds.

It reads a JSON object `{"code": ..., "out": FILE, "err": FILE}` from each line of stdin and answers with the exit
status.
"""

from __future__ import annotations

import json
import os
import sys
import traceback

import torch  # noqa: F401

import mpsprobe.device.virtual.session  # noqa: F401


def _run(code: str, out: str, err: str) -> int:
    for descriptor, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    try:
        exec(compile(code, "<program>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    """Serve until stdin is closed."""
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            status = _run(**asked)
            sys.stdout.flush()
            sys.stderr.flush()
            # Without Python's finalisation: autograd's thread of the device may ask for the GIL in the middle of it,
            # and C++ then ends the process ("terminate called without an active exception").
            os._exit(status)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
