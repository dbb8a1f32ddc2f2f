"""The flight recorder, read after the process that wrote it has died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from mpsprobe.errors import DataError
from mpsprobe.trace.dispatch import record
from mpsprobe.trace.flight import FlightRecorder, read_flight

#: A module whose op ends the process: by a signal from outside, an abort inside, or a write to address 0.
DYING = """\
import ctypes, os, signal, sys, torch
from torch import nn
from mpsprobe.trace.dispatch import record
from mpsprobe.trace.flight import FlightRecorder

@torch.library.custom_op("planted::die", mutates_args=())
def die(x: torch.Tensor, how: str) -> torch.Tensor:
    if how == "kill": os.kill(os.getpid(), signal.SIGKILL)
    if how == "abort": os.abort()
    if how == "segfault": ctypes.memset(0, 1, 1)
    return x.clone()

class Dying(nn.Module):
    def forward(self, x):
        return torch.ops.planted.die(x, sys.argv[2])   # the line to be named

model = nn.Sequential(nn.Linear(3, 2), Dying())
with torch.no_grad(), FlightRecorder(sys.argv[1]) as flight, record(model, flight=flight):
    for _ in range(300):
        model[0](torch.ones(4, 3))
    model(torch.ones(4, 3))
"""


@pytest.mark.parametrize(
    ("how", "ended_by"),
    [
        ("kill", signal.SIGKILL),
        pytest.param("abort", signal.SIGABRT, marks=pytest.mark.slow),
        pytest.param("segfault", signal.SIGSEGV, marks=pytest.mark.slow),
    ],
)
def test_the_op_in_flight_is_named_after_the_process_died(tmp_path: Path, how: str, ended_by: int) -> None:
    script, box = tmp_path / "dying.py", tmp_path / "flight.bin"
    script.write_text(DYING)
    ended = subprocess.run([sys.executable, script, box, how], capture_output=True, check=False)
    assert ended.returncode == -ended_by, ended.stderr.decode()[-2000:]
    *before, last = read_flight(box)
    line = next(number for number, text in enumerate(DYING.splitlines(), 1) if "the line to be named" in text)
    assert (last.op, last.inputs, last.module, last.ended) == ("planted::die", "float32[4, 2]", "1", False)
    assert last.source == f"dying.py:{line}"
    assert last.number == 300 * 3 + 4  # ones, t and addmm each time, then once more and the one that kills
    assert [op.ended for op in before] == [True] * 7
    assert str(before[-1]) == f"aten::addmm(float32[2] float32[4, 3] float32[3, 2]) in 0 {before[-1].source}"


def test_an_op_that_returned_or_raised_is_not_in_flight(tmp_path: Path) -> None:
    box = tmp_path / "flight.bin"
    with FlightRecorder(box) as flight, torch.no_grad(), record(flight=flight):
        torch.ones(2)
        with pytest.raises(RuntimeError):
            torch.ones(2, 3) @ torch.ones(2, 3)
    assert [(op.op, op.ended) for op in read_flight(box)] == [
        ("aten::ones", True),
        ("aten::ones", True),
        ("aten::ones", True),
        ("aten::mm", True),
    ]


def test_the_ring_keeps_the_last_ops_in_order(tmp_path: Path) -> None:
    box = tmp_path / "flight.bin"
    with FlightRecorder(box, slots=8) as flight:
        for use in range(3):
            flight.name(use, f"op{use}", "", "", "")
        for number in range(20):
            flight.end(flight.begin(number % 3), number % 3)
    ops = read_flight(box, last=100)
    assert [op.number for op in ops] == list(range(13, 21))
    assert [op.op for op in ops] == [f"op{number % 3}" for number in range(12, 20)]
    assert [op.number for op in read_flight(box, last=2)] == [19, 20]


def test_it_can_be_read_while_it_is_written(tmp_path: Path) -> None:
    box = tmp_path / "flight.bin"
    with FlightRecorder(box) as flight:
        assert read_flight(box) == []
        flight.name(0, "aten::mm", "float32[2, 2]", "layer", "model.py:3")
        slot = flight.begin(0)
        assert str(read_flight(box)[0]) == "aten::mm(float32[2, 2]) in layer model.py:3"
        assert not read_flight(box)[0].ended
        flight.end(slot, 0)
        assert read_flight(box)[0].ended


def test_names_with_line_breaks_and_missing_names_do_no_harm(tmp_path: Path) -> None:
    box = tmp_path / "flight.bin"
    with FlightRecorder(box) as flight:
        flight.name(0, "a\nb", "x\ty", "", "")
        flight.begin(0)
        flight.begin(7)
    assert [op.op for op in read_flight(box)] == ["a b", "?"]


def test_threads_get_slots_of_their_own(tmp_path: Path) -> None:
    box = tmp_path / "flight.bin"
    model = nn.Linear(3, 3)
    with FlightRecorder(box, slots=1024) as flight, torch.no_grad(), record(model, flight=flight) as recorder:
        x = torch.ones(2, 3)

        def work() -> None:
            with torch.no_grad():
                for _ in range(40):
                    model(x)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    ops = read_flight(box, last=1024)
    assert len(ops) == sum(use.count for use in recorder.op_uses())
    assert all(op.ended for op in ops)
    assert sum(op.op == "aten::addmm" for op in ops) == 4 * 40


@pytest.mark.parametrize("content", [b"", b"nonsense" * 20, b"mpsprobF" + b"\xff" * 100])
def test_what_is_not_its_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "flight.bin"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"flight\.bin"):
        read_flight(path)


def test_a_missing_file_and_a_wrong_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_flight(tmp_path / "none")
    with pytest.raises(ValueError, match="power of two"):
        FlightRecorder(tmp_path / "flight.bin", slots=100)


def test_its_file_is_private_and_small(tmp_path: Path) -> None:
    box = tmp_path / "flight.bin"
    FlightRecorder(box).close()
    assert box.stat().st_mode & 0o777 == 0o600
    assert box.stat().st_size < 4096
    assert os.access(box, os.R_OK)
