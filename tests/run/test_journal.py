"""The journal: what a process that dies at any byte leaves behind can be read."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsprobe.errors import DataError
from mpsprobe.run import Check, DeviceChoice, Interruption, Phase, Run, Status, exit_code, journal
from tests.run.test_run import a_run

PLAN = [
    journal.Planned("pins.requirements", Phase.PINS, "Pins"),
    journal.Planned("transfer.load", Phase.TRANSFER, "Load"),
    journal.Planned("transfer.dtypes", Phase.TRANSFER, "Dtypes"),
    journal.Planned("data.prepare", Phase.DATA, "Prepare"),
]


def check_of(plan: journal.Planned) -> Check:
    return Check(id=plan.id, phase=plan.phase, title=plan.title, status=Status.PASS)


def events(until: int) -> list[journal.Event]:
    """A run's events, cut off after `until` of its checks (each one begins and ends)."""
    run = a_run()
    run.ended = ""
    told: list[journal.Event] = [journal.RunStarted(run), journal.Plan(PLAN)]
    for plan in PLAN[:until]:
        told += [journal.CheckStarted(plan.id, 5.0), journal.CheckEnded(check_of(plan))]
    return told


def write(path: Path, told: list[journal.Event]) -> None:
    log = journal.Journal(path)
    for event in told:
        log.write(event)
    log.close()


def statuses(run: Run) -> dict[str, Status]:
    return {check.id: check.status for check in run.checks}


def test_a_whole_run_is_replayed_without_interruption(tmp_path: Path) -> None:
    write(tmp_path / "j", [*events(4), journal.RunEnded("2026-11-22T14:00:00Z")])
    run = journal.replay(tmp_path / "j")
    assert run.interruption is None
    assert run.ended == "2026-11-22T14:00:00Z"
    assert statuses(run) == dict.fromkeys((plan.id for plan in PLAN), Status.PASS)


def test_the_check_in_flight_is_marked(tmp_path: Path) -> None:
    write(tmp_path / "j", [*events(1), journal.CheckStarted("transfer.load", 5.0)])
    run = journal.replay(tmp_path / "j", Interruption("crashed", "SIGABRT", "", "assertion"))
    assert statuses(run) == {
        "pins.requirements": Status.PASS,
        "transfer.load": Status.CRASHED,
        "transfer.dtypes": Status.UNKNOWN,
        "data.prepare": Status.BLOCKED,
    }
    assert run.interruption == Interruption("crashed", "SIGABRT", "transfer.load", "assertion")
    assert run.checks[3].blocked_by is Phase.TRANSFER
    assert "SIGABRT" in run.checks[1].message


def test_a_death_between_checks_blames_no_check(tmp_path: Path) -> None:
    write(tmp_path / "j", events(2))
    run = journal.replay(tmp_path / "j", Interruption("crashed", "SIGABRT", "", "assertion"))
    assert run.interruption == Interruption("crashed", "SIGABRT", "", "assertion")
    assert statuses(run)["transfer.load"] is Status.PASS
    assert Status.CRASHED not in statuses(run).values()


def test_what_was_learnt_is_kept_until_replaced(tmp_path: Path) -> None:
    chosen = DeviceChoice(requested="auto", used="emulated", reason="no GPU")
    write(tmp_path / "j", [*events(1), journal.RunFacts(device=chosen), journal.RunFacts(limits=["one"])])
    run = journal.replay(tmp_path / "j")
    assert (run.device, run.limits[0]) == (chosen, "one")


def test_a_timeout_is_not_called_a_crash(tmp_path: Path) -> None:
    write(tmp_path / "j", [*events(1), journal.CheckStarted("transfer.load", 5.0)])
    run = journal.replay(tmp_path / "j", Interruption("timeout", "", "", ""))
    assert statuses(run)["transfer.load"] is Status.TIMEOUT
    assert "5 s" in run.checks[1].message


def test_an_unsupervised_journal_says_it_was_cut_off(tmp_path: Path) -> None:
    write(tmp_path / "j", events(2))
    run = journal.replay(tmp_path / "j")
    assert run.interruption is not None
    assert statuses(run)["transfer.dtypes"] is Status.UNKNOWN


def test_what_became_known_on_the_way_is_kept(tmp_path: Path) -> None:
    target = msgspec.structs.replace(a_run().target, architecture="Net")
    write(tmp_path / "j", [*events(1), journal.RunFacts(target=target), journal.RunFacts(limits=["one"])])
    run = journal.replay(tmp_path / "j")
    assert run.target.architecture == "Net"
    assert run.limits == ["one"]


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(min_value=0, max_value=100_000))
def test_a_cut_journal_loses_at_most_one_line(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "j"
    write(path, events(4))
    data = path.read_bytes()
    first = data.index(b"\n") + 1
    kept = data[: first + cut % (len(data) - first)]
    path.write_bytes(kept)
    ended = sum(b'"type":"check"' in line for line in kept.split(b"\n")[:-1])
    run = journal.replay(path)
    assert sum(check.status is Status.PASS for check in run.checks) >= ended


@pytest.mark.parametrize("content", [b"", b"not json\n{}\n"])
def test_what_is_no_journal_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "j").write_bytes(content)
    with pytest.raises(DataError):
        journal.replay(tmp_path / "j")


@pytest.mark.parametrize(
    "stray",
    [
        b"hello",
        b'{"type": "check", "che',
        b"null",
        b"[" * 50_000,
        b"9" * 20_000,
        b"\xff\x00",
        b'{"type": "x"}',
    ],
)
def test_stray_line_costs_only_itself(tmp_path: Path, stray: bytes) -> None:
    path = tmp_path / "j"
    write(path, [*events(4), journal.RunEnded("2026-11-22T14:00:00Z")])
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:4], stray, *lines[4:]]) + b"\n")
    run = journal.replay(path)
    assert run.interruption is None
    assert set(statuses(run).values()) == {Status.PASS}
    assert any("1 lines of the journal" in limit for limit in run.limits)


def test_events_of_another_run_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "j"
    write(path, events(3))
    other = journal.Journal(path, "another run")
    other.write(journal.CheckEnded(msgspec.structs.replace(check_of(PLAN[3]), status=Status.FAIL)))
    other.write(journal.RunEnded("2026-11-22T14:00:00Z"))
    other.close()
    run = journal.replay(path)
    assert run.ended == ""
    assert statuses(run)[PLAN[3].id] is Status.UNKNOWN


def test_end_without_all_answers_is_no_whole_run(tmp_path: Path) -> None:
    write(tmp_path / "j", [*events(2), journal.RunEnded("2026-11-22T14:00:00Z")])
    run = journal.replay(tmp_path / "j")
    assert exit_code(run) == 5
    missing = [check for check in run.checks if check.id in (PLAN[2].id, PLAN[3].id)]
    assert [check.status for check in missing] == [Status.UNKNOWN, Status.UNKNOWN]
    assert all("ended before all its checks" in check.message for check in missing)


def test_check_answered_twice_is_an_error(tmp_path: Path) -> None:
    again = journal.CheckEnded(msgspec.structs.replace(check_of(PLAN[0]), status=Status.FAIL))
    write(tmp_path / "j", [*events(4), again, journal.RunEnded("2026-11-22T14:00:00Z")])
    run = journal.replay(tmp_path / "j")
    assert statuses(run)[PLAN[0].id] is Status.ERROR
    assert len(run.checks) == len(PLAN)
    assert exit_code(run) == 4


def test_unknown_schema_of_a_journal_is_refused(tmp_path: Path) -> None:
    run = a_run()
    run.schema = 7
    write(tmp_path / "j", [journal.RunStarted(run)])
    with pytest.raises(DataError, match="schema 7"):
        journal.replay(tmp_path / "j")


def test_journal_outlives_its_descriptor(tmp_path: Path) -> None:
    """A target may close what it did not open, and open a file of its own in its place."""
    log = journal.Journal(tmp_path / "j")
    first, *rest = events(4)
    log.write(first)
    os.close(log._file.number)
    with (tmp_path / "theirs").open("wb"):
        for event in rest:
            log.write(event)
    log.close()
    assert set(statuses(journal.replay(tmp_path / "j")).values()) == {Status.PASS}
    assert (tmp_path / "theirs").read_bytes() == b""


def test_forked_copy_writes_nothing(tmp_path: Path) -> None:
    log = journal.Journal(tmp_path / "j")
    log.write(events(0)[0])
    before = (tmp_path / "j").read_bytes()
    child = os.fork()
    if not child:
        log.write(events(0)[1])
        os._exit(0)
    os.waitpid(child, 0)
    log.close()
    assert (tmp_path / "j").read_bytes() == before
