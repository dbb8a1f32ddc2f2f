"""The process that replays op uses: `python -m mpsprobe.ops.worker IN OUT`, with two inherited pipes.

It is spawned, never forked, because a fork of a process that has used Metal or CUDA is not safe. Output of an op
goes to a file of the parent's, so it cannot disturb the messages.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import signal
import sys
import threading
import time
from functools import lru_cache
from typing import TYPE_CHECKING

from mpsprobe.errors import MpsprobeError
from mpsprobe.ops import protocol
from mpsprobe.ops.protocol import Failure, ProbeAnswer, ProbeRequest, Ready, Replay, Request, Setup, ToWorker

if TYPE_CHECKING:
    from mpsprobe.ops.place import Place

#: The smallest memory limit of an op use in bytes, because libraries reserve some hundred MB on first use.
_LEAST_BYTES = 2 << 30
#: Namespaces of ops that belong to torch itself.
_OWN = frozenset(
    {"aten", "prim", "prims", "inductor", "quantized", "_c10d_functional", "higher_order", "mps"}
)


def main(given: int, taken: int) -> None:
    """Receive requests from the pipe `given`, and answer them on the pipe `taken`.

    It returns only when the device cannot be opened; when the parent closes a pipe, `protocol.ClosedError` passes
    through.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles interrupts
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1, all_threads=True)  # lets the parent ask where it hangs
    threading.Thread(target=_follow_parent, name="mpsprobe-parent", daemon=True).start()
    setup = protocol.receive(given, Setup)
    try:
        from mpsprobe.ops import place

        with place.opened(setup) as device:
            protocol.send(taken, Ready())
            while True:
                protocol.send(taken, _answer(protocol.receive(given, ToWorker), device, setup))
    except MpsprobeError as problem:
        protocol.send(taken, Failure(str(problem)))


def _answer(request: Request | ProbeRequest, device: Place, setup: Setup) -> Replay | ProbeAnswer:
    """Replay an op use or run a probe, as the request says, and return the answer."""
    if isinstance(request, ProbeRequest):
        from mpsprobe.ops import probes

        return probes.run(request.name, device)
    from mpsprobe.ops.replay import need, replay

    _import_namespace(request.use.op.partition("::")[0])
    allowed = min(setup.memory_bytes, max(_LEAST_BYTES, 2 * need(request.use)))
    _limit_memory(setup, allowed)
    answer = replay(request, device, allowed)
    if answer.spoilt:
        answer.message += f" One op use of this size may allocate {allowed / 1e9:.1f} GB here."
    return answer


@lru_cache
def _import_namespace(name: str) -> None:
    """Import the package of an op; most namespaces are named after their package (torchvision)."""
    if name not in _OWN:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _limit_memory(setup: Setup, more: int) -> None:
    """Allow at most `more` further bytes to be allocated, where the system can enforce that.

    An op that allocates without end then raises, instead of exhausting the machine. macOS does not enforce a limit
    of the address space, and CUDA maps more of it than the machine has memory; there the parent watches the memory.
    """
    if not sys.platform.startswith("linux") or setup.device == "cuda":
        return
    import resource

    with open("/proc/self/statm") as file:  # noqa: PTH123 - a small read for every op use
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + more, resource.RLIM_INFINITY))


def _follow_parent() -> None:
    """End this process when its parent has died, because an op here may never return."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


if __name__ == "__main__":
    with contextlib.suppress(protocol.ClosedError):
        main(int(sys.argv[1]), int(sys.argv[2]))
    os._exit(0)  # the device may have threads that wait for work for ever
