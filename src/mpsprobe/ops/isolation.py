"""Run op uses in a separate process: an abort, a segmentation fault or a hang costs one answer and one worker.

One warm worker serves one request at a time, because there is one device. `pebble` was not chosen: its workers share
the parent's stderr, so the output before an abort could not be assigned to a request, and it has no memory limit.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import IO, Any

import psutil

from mpsprobe import launch
from mpsprobe.errors import HarnessError
from mpsprobe.ops import protocol
from mpsprobe.ops.protocol import (
    Failure,
    FromWorker,
    ProbeAnswer,
    ProbeRequest,
    Ready,
    Replay,
    ReplayOutcome,
    Request,
    Setup,
)

#: The time limit of one op use in seconds. The first of a kind compiles a Metal kernel, which takes a second or two.
OP_LIMIT_S = 60.0
#: The time limit in seconds for the worker to import torch and open its device.
_START_LIMIT_S = 180.0
_POLL_S = 0.1
_LAST_WORDS_S = 0.5
_OUTPUT_LINES = 30
#: Frames of a dumped Python stack that belong to mpsprobe rather than the op.
_OUR_FRAME = re.compile(r'^Extension modules:|File "<frozen runpy>|File ".*[/\\]mpsprobe[/\\]ops[/\\]')
#: A fault of the GPU counts as success; only this line on stderr shows it (pytorch PR 193571).
_GPU_FAULT = "command buffer exited with error status"


def allowance() -> int:
    """Return the memory budget of one op use, in bytes: half of what is available now."""
    return int(psutil.virtual_memory().available // 2)


class _Died(Exception):  # noqa: N818 - an outcome, not an error of the program
    """The worker died or was ended before it answered."""

    def __init__(self, outcome: ReplayOutcome, message: str, name: str = "") -> None:
        self.outcome, self.message, self.signal = outcome, message, name
        super().__init__(message)


class Isolation:
    """Answer requests through a worker, which is started on first use and replaced when it dies.

    Attributes:
        started: The number of workers started so far.

    Args:
        setup: The first message to each worker: the device, its rules and the memory of an op use.
        op_limit_s: The time limit of one request in seconds.
        command: The command to start instead of the worker, followed by the numbers of two pipes.
    """

    def __init__(
        self, setup: Setup, *, op_limit_s: float = OP_LIMIT_S, command: Sequence[str] | None = None
    ) -> None:
        self.setup = setup
        self.op_limit_s = op_limit_s
        self.started = 0
        self._command = list(command or launch.python("mpsprobe.ops.worker"))
        self._worker: _Worker | None = None

    def replay(self, request: Request) -> Replay:
        """Replay one op use, and return an answer even if the worker dies or must be ended.

        The answer holds the worker's output unless the op use ran natively. A worker that ran out of memory is ended.

        Raises:
            HarnessError: No worker can be started.
        """
        answer, output = self._ask(request)
        if isinstance(answer, _Died):
            return Replay(
                outcome=answer.outcome,
                message=f"{request.use.op} {answer.message}",
                signal=answer.signal,
                output=output,
            )
        assert isinstance(answer, Replay)
        answer.output = output if answer.outcome is not ReplayOutcome.NATIVE else ""
        if _GPU_FAULT in output:
            answer.outcome, answer.output = ReplayOutcome.FAULT, output
            answer.message = (
                "The GPU reports a fault, and PyTorch raises nothing: the result cannot be trusted."
            )
        if answer.spoilt:
            self.close()
        return answer

    def probe(self, name: str) -> ProbeAnswer:
        """Run one advisory's probe, and return an answer even if the worker dies, which counts as `"bad"`.

        Raises:
            HarnessError: No worker can be started.
        """
        answer, output = self._ask(ProbeRequest(name))
        if isinstance(answer, _Died):
            return ProbeAnswer("bad", f"its process {answer.message}", output)
        assert isinstance(answer, ProbeAnswer)
        if _GPU_FAULT in output:
            return ProbeAnswer("bad", "the GPU reports a fault, and PyTorch raises nothing", output)
        return answer

    def close(self) -> None:
        """End the worker; the next request starts another."""
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def __enter__(self) -> Isolation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, request: Request | ProbeRequest) -> tuple[Replay | ProbeAnswer | _Died, str]:
        """Send a request, and return the worker's answer with what it has printed meanwhile."""
        if self._worker is None:
            self.started += 1
            self._worker = _Worker(self._command, self.setup)
        worker = self._worker
        since = worker.written()
        try:
            return worker.ask(request, self.op_limit_s), worker.output(since)
        except _Died as death:
            self._worker = None
            output = worker.output(since)
            worker.end()
            return death, output


class _Worker:
    """One worker process with its pipes and its log."""

    def __init__(self, command: list[str], setup: Setup) -> None:
        # Held by descriptor, so that no file remains, however this process ends.
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        to_read, self._out = os.pipe()
        self._in, from_worker = os.pipe()
        self._process = subprocess.Popen(
            [*command, str(to_read), str(from_worker)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            pass_fds=(to_read, from_worker),
            env=_environment(),
        )
        os.close(to_read)
        os.close(from_worker)
        self._memory_limit = 0
        try:
            protocol.send(self._out, setup)
            ready = self._receive(_START_LIMIT_S)
        except (_Died, protocol.ClosedError) as death:
            words = self.output(0)[-500:]
            self.end()
            raise HarnessError(
                f"the worker for op checks could not start: {death or 'it ended at once'}.", words
            ) from death
        if isinstance(ready, Failure):
            self.end()
            raise HarnessError(f"the worker for op checks could not open its device: {ready.message}")
        assert isinstance(ready, Ready)
        self._memory_limit = self._resident() + setup.memory_bytes

    def ask(self, request: Request | ProbeRequest, limit_s: float) -> Replay | ProbeAnswer:
        """Send a request to the process, and return its answer.

        Raises:
            _Died: The worker died, or was ended because of its time or its memory.
        """
        try:
            protocol.send(self._out, request)
        except protocol.ClosedError:
            self._died()
        answer = self._receive(limit_s)
        assert isinstance(answer, (Replay, ProbeAnswer))
        return answer

    def _receive(self, limit_s: float) -> Any:
        until = protocol.deadline(limit_s)
        while not protocol.readable(self._in, min(_POLL_S, protocol.left(until))):
            if self._process.poll() is not None and not protocol.readable(self._in, 0):
                self._died()
            if self._memory_limit and self._resident() > self._memory_limit:
                self._kill()
                size = self._memory_limit / 1e9
                raise _Died(ReplayOutcome.CRASHED, f"was ended: it holds more than {size:.1f} GB.", "SIGKILL")
            if not protocol.left(until):
                self._ask_where()
                self._kill()
                raise _Died(ReplayOutcome.HANGS, f"did not end within {limit_s:g} s.", "SIGKILL")
        try:
            return protocol.receive(self._in, FromWorker)
        except protocol.ClosedError:
            self._died()

    def _died(self) -> Any:
        """Wait for the process, whose pipe is closed, and raise `_Died` with how it ended."""
        code = self._process.wait()
        name = _signal_name(-code) if code < 0 else ""
        raise _Died(
            ReplayOutcome.CRASHED,
            f"ended its process by {name or f'exit status {code}'}.",
            name or f"exit status {code}",
        )

    def _resident(self) -> int:
        with contextlib.suppress(psutil.Error):
            return int(psutil.Process(self._process.pid).memory_info().rss)
        return 0

    def _ask_where(self) -> None:
        """Have a hung process write its Python stack to its log, so that the report shows where it hangs."""
        if hasattr(signal, "SIGUSR1"):
            self._process.send_signal(signal.SIGUSR1)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=_LAST_WORDS_S)

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def written(self) -> int:
        """Return the size in bytes of what the process has written to its log."""
        return os.fstat(self._log.fileno()).st_size

    def output(self, since: int) -> str:
        """Return the last 30 lines that the process has written after the first `since` bytes.

        Frames of mpsprobe's own code in a dumped stack are left out.
        """
        size = self.written() - since
        text = os.pread(self._log.fileno(), min(size, 1 << 16), self.written() - min(size, 1 << 16))
        lines = text.decode(errors="replace").strip().splitlines()
        return "\n".join([line for line in lines if not _OUR_FRAME.search(line)][-_OUTPUT_LINES:])

    def end(self) -> None:
        """Close the pipes, kill the process if it does not end in half a second, and discard its output."""
        for fd in (self._out, self._in):
            with contextlib.suppress(OSError):
                os.close(fd)
        self._out = self._in = -1
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_LAST_WORDS_S)
        if self._process.poll() is None:
            self._kill()
        self._log.close()


def _environment() -> dict[str, str]:
    """Return the parent's environment with its import path, so that the worker finds this mpsprobe and the target."""
    return {
        **launch.environment(),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONFAULTHANDLER": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
