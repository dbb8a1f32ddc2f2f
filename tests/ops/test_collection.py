"""Which per-op tests there are: known at collection, recorded once, bounded in a supervised run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from mpsprobe.errors import UsageError
from mpsprobe.ops.distinct import unique_names
from mpsprobe.options import Settings
from mpsprobe.run import Run, Status
from mpsprobe.suite import op_list
from mpsprobe.supervision.supervisor import Supervisor
from mpsprobe.trace.signature import overload
from tests.suite.test_plugin import profile
from tests.supervision.test_supervisor import CHECKOUT


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that adopted the suite, with a cache of its own."""
    monkeypatch.setenv("MPSPROBE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(CHECKOUT), str(CHECKOUT / "src")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "test_mac.py").write_text("from mpsprobe.suite import *\n")
    profile(tmp_path)
    return tmp_path


def pytest_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--mpsprobe-device=cpu",
            "--mpsprobe-profile", str(folder / "faulty.toml"), "--mpsprobe-report", str(folder / "out"), *arguments,
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )  # fmt: skip


ADDMM = "test_op_use[aten.addmm-f32-4_1x4_4x4~1.4]"


def test_op_uses_are_tests_recorded_once_and_selected_by_name(repository: Path) -> None:
    first = pytest_in(repository, "-m", "ops", "--collect-only", "-q")
    assert ADDMM in first.stdout, first.stdout + first.stderr
    assert "recording the op uses of" in first.stdout
    assert "test_ops[recorded]" in first.stdout
    assert "test_ops[replay]" not in first.stdout, "each op use has a test of its own"
    again = pytest_in(repository, "-m", "ops", "-k", "addmm", "-v")
    assert "recording" not in again.stdout
    assert f"{ADDMM} PASSED" in again.stdout
    (check,) = Run.load(repository / "out" / "run.json").checks
    assert check.id == f"ops.{ADDMM[12:-1]}"
    assert check.status is Status.PASS


def test_unless_asked_for_one_check_stands_for_all(repository: Path) -> None:
    listed = pytest_in(repository, "--collect-only", "-q").stdout
    assert "test_op_use" not in listed
    assert "test_ops[replay]" in listed
    assert "recording" not in listed


@pytest.mark.parametrize("expression", ["not ops", "phase4", "not ops and not benchmark"])
def test_other_markers_record_nothing(repository: Path, expression: str) -> None:
    listed = pytest_in(repository, "--collect-only", "-q", "-m", expression).stdout
    assert "test_op_use" not in listed
    assert "recording" not in listed


def test_another_repositorys_marker_ops_records_nothing(repository: Path) -> None:
    (repository / "test_mac.py").unlink()
    (repository / "test_own.py").write_text(
        "import pytest, sys\n@pytest.mark.ops\ndef test_own(): assert 'torch' not in sys.modules\n"
    )
    done = pytest_in(repository, "-m", "ops")
    assert done.returncode == 0, done.stdout
    assert "mpsprobe:" not in done.stdout


def test_a_target_that_cannot_be_recorded_blocks_its_checks(repository: Path) -> None:
    profile(repository, "raise", "load")
    done = pytest_in(repository, "-m", "ops")
    assert "are not known" in done.stdout
    run = Run.load(repository / "out" / "run.json")
    assert {check.status for check in run.checks} == {Status.BLOCKED}
    assert {check.blocked_by and check.blocked_by.value for check in run.checks} == {"transfer"}


def test_a_supervised_run_replays_within_a_budget(repository: Path) -> None:
    arguments = [
        "--mpsprobe-device",
        "cpu",
        "--mpsprobe-profile",
        str(repository / "faulty.toml"),
        "-m",
        "ops",
    ]
    (repository / "supervised").mkdir()
    run = Supervisor(repository / "supervised", lambda _: None).run(arguments)
    replay = next(check for check in run.checks if check.id == "ops.replay")
    assert replay.status is Status.PASS
    assert "replayed on cpu" in replay.message
    assert not [check for check in run.checks if check.id.startswith("ops.aten")]


def test_the_general_list_holds_ops_of_this_torch() -> None:
    core = op_list.core()
    assert "torch" in core.source
    assert "transformers" in core.source
    assert len(set(unique_names(core.uses))) == len(core.uses)
    for use in core.uses:
        overload(use.op)
    ops = {use.op for use in core.uses}
    assert {"aten::linear", "aten::native_layer_norm", "aten::embedding", "aten::silu", "aten::topk"} & ops
    assert {tensor.dtype for use in core.uses for tensor in use.inputs} >= {"float32", "float16", "bfloat16"}


def test_the_list_of_a_changed_target_is_another(repository: Path) -> None:
    from mpsprobe.models import targets

    def key(**asked: object) -> str:
        settings = Settings(profile=str(repository / "faulty.toml"), **asked)  # type: ignore[arg-type]
        return op_list._key(targets.resolve(settings), settings)

    assert key() == key()
    assert len({key(), key(device="cpu"), key(torch="2.8"), key(mac="m1-max-64"), key(fallback=True)}) == 5
    before = key()
    profile(repository, "nan", "infer")
    assert key() != before


def test_a_run_without_op_uses_is_no_list(tmp_path: Path) -> None:
    from tests.cli.test_expect import run_of

    run_of().save(tmp_path / "run.json")
    with pytest.raises(UsageError, match="no op uses"):
        op_list.of_run(tmp_path / "run.json")


def test_a_damaged_list_is_recorded_again(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(profile=str(repository / "faulty.toml"), device="cpu")
    found = op_list.OpList("anew", [])
    monkeypatch.setattr(op_list, "_record", lambda *_: found)
    told: list[str] = []
    for damage in ("", "{", '{"uses": 3}'):
        assert op_list.of_target(settings, [], told.append) == found
        (path,) = (repository / "cache" / "op-uses").glob("*.json")
        assert msgspec.json.decode(path.read_bytes(), type=op_list.OpList) == found
        path.write_text(damage)
    assert len(told) == 3
