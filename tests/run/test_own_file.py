"""Files of ours in a process whose other code closes descriptors: nothing of ours gets into another file."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from mpsprobe.run import own_file
from mpsprobe.run.journal import Journal, Progress, decode
from mpsprobe.run.own_file import OwnFile
from mpsprobe.trace.dispatch import record
from mpsprobe.trace.flight import FlightRecorder, read_flight


@pytest.fixture(autouse=True)
def _nothing_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_file, "_disturbed", [])


def _closed(number: int, _: Path) -> None:
    os.close(number)


def _replaced(number: int, folder: Path) -> None:
    """Close a descriptor as a target may, and let its own file have the number."""
    os.close(number)
    theirs = os.open(folder / "theirs", os.O_WRONLY | os.O_CREAT)
    os.dup2(theirs, number)


DISTURBANCES = pytest.mark.parametrize("disturb", [_closed, _replaced])


@DISTURBANCES
def test_own_file_is_opened_again(tmp_path: Path, disturb: Callable[[int, Path], None]) -> None:
    file = OwnFile(tmp_path / "ours")
    file.write(b"one\n")
    disturb(file.number, tmp_path)
    file.write(b"two\n")
    file.close()
    assert (tmp_path / "ours").read_bytes() == b"one\ntwo\n"
    assert not (tmp_path / "theirs").exists() or not (tmp_path / "theirs").read_bytes()
    assert file.is_disturbed
    assert own_file.disturbed() == ["ours"]


def test_close_leaves_another_files_descriptor_open(tmp_path: Path) -> None:
    file = OwnFile(tmp_path / "ours")
    number = file.number
    _replaced(number, tmp_path)
    file.close()
    os.write(number, b"theirs")  # EBADF where it was closed
    assert (tmp_path / "theirs").read_bytes() == b"theirs"


def test_nothing_goes_into_a_file_that_took_the_path(tmp_path: Path) -> None:
    file = OwnFile(tmp_path / "ours")
    os.close(file.number)
    (tmp_path / "ours").rename(tmp_path / "moved")
    (tmp_path / "ours").write_bytes(b"theirs")
    assert file.write(b"line\n") == 0
    assert (tmp_path / "ours").read_bytes() == b"theirs"
    assert file.write(b"line\n") == 0


def test_an_undisturbed_file_is_not_called_disturbed(tmp_path: Path) -> None:
    file = OwnFile(tmp_path / "ours", empty=True)
    assert file.write(b"line\n") == 5
    file.close()
    assert file.write(b"more\n") == 0
    assert own_file.disturbed() == []


@DISTURBANCES
def test_journal_keeps_its_events(tmp_path: Path, disturb: Callable[[int, Path], None]) -> None:
    journal = Journal(tmp_path / "journal.jsonl", "r")
    journal.write(Progress("one"))
    disturb(journal._file.number, tmp_path)
    journal.write(Progress("two"))
    lines = (tmp_path / "journal.jsonl").read_bytes().splitlines()
    assert [decode(line) for line in lines] == [Progress("one", run_id="r"), Progress("two", run_id="r")]


@DISTURBANCES
def test_flight_recorder_names_ops(tmp_path: Path, disturb: Callable[[int, Path], None]) -> None:
    class Disturbing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x.exp()
            disturb(flight._file.number, tmp_path)
            return y.sinh()

    model = Disturbing()
    with torch.no_grad(), FlightRecorder(tmp_path / "flight.bin") as flight, record(model, flight=flight):
        found = model(torch.ones(2))
    assert torch.equal(found, torch.ones(2).exp().sinh())
    assert [op.op for op in read_flight(tmp_path / "flight.bin")][-2:] == ["aten::exp", "aten::sinh"]
    assert not (tmp_path / "theirs").exists() or not (tmp_path / "theirs").read_bytes()


#: Closes every descriptor while ops are recorded, and opens files of its own that take all the numbers.
CLOSING = """\
import gc, os, sys, torch
from mpsprobe.trace.dispatch import record
from mpsprobe.trace.flight import FlightRecorder

with torch.no_grad(), FlightRecorder(sys.argv[1]) as flight, record(None, flight=flight):
    torch.ones(3).exp()
    os.closerange(3, 256)
    files = [open(f"{sys.argv[2]}/theirs{k}", "w") for k in range(60)]
    torch.ones(3).sinh()
del flight
gc.collect()
for k, file in enumerate(files):
    file.write(str(k))
    file.close()
"""


def test_no_file_of_the_target_is_closed_or_written_to(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CLOSING, str(tmp_path / "flight.bin"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1000:]
    assert [(tmp_path / f"theirs{k}").read_text() for k in range(60)] == [str(k) for k in range(60)]
    assert read_flight(tmp_path / "flight.bin")[-1].op == "aten::sinh"
