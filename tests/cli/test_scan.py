"""`mpsprobe scan`: targets, formats and exit codes, as a shell sees them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import mpsprobe
from mpsprobe.cli.scan import command
from mpsprobe.cli.sink import Sink
from mpsprobe.errors import UsageError


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments, obj=Sink(), catch_exceptions=False)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "error.py").write_text("import torch\ntorch.cuda.synchronize()\n")
    (tmp_path / "note.py").write_text("import torch\ntorch.cuda.empty_cache()\n")
    (tmp_path / "clean.py").write_text("import torch\n")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["clean.py"], 0),
        (["error.py"], 1),
        (["note.py"], 0),
        (["note.py", "--fail-on", "note"], 1),
        (["error.py", "--fail-on", "never"], 0),
        (["error.py", "--ignore", "MPS105"], 0),
        ([".", "--select", "MPS104"], 0),
        ([".", "--exclude", "error.py"], 0),
        ([".", "--quiet-is-no-option"], 2),
        (["--rules"], 0),
    ],
)
def test_exit_codes(model: Path, arguments: list[str], code: int) -> None:
    assert run(*arguments).exit_code == code


@pytest.mark.parametrize(
    "arguments",
    [[], [""], ["nowhere"], ["./nowhere"], ["no/such"], [".", "--select", "MPS999"], [".", "--torch", "1.0"]],
)
def test_a_wrong_call_is_a_usage_error(
    model: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UsageError) as problem:
        run(*arguments)
    assert problem.value.exit_code == 2


def test_formats(model: Path) -> None:
    assert json.loads(run(".", "--json").stdout) == json.loads(run(".", "--format", "json").stdout)
    assert json.loads(run(".", "--format", "sarif").stdout)["version"] == "2.1.0"
    assert run("error.py", "--format", "github").stdout.startswith("::error file=error.py,line=2,")
    assert run("clean.py", "--format", "github").stdout == ""
    assert run("clean.py").stdout.startswith("Nothing found in 1 file")


def test_a_report_goes_to_a_file(model: Path) -> None:
    result = run(".", "--format", "sarif", "--output", "out/scan.sarif")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "1 error, 1 note in 3 files" in result.stderr
    assert json.loads((model / "out" / "scan.sarif").read_text())["runs"]


def test_a_package_and_a_model_folder(model: Path) -> None:
    assert json.loads(run("transformers.models.udop", "--json").stdout)["findings"][0]["code"] == "MPS301"
    (model / "weights").mkdir()
    (model / "weights" / "config.json").write_text('{"model_type": "udop"}')
    result = run("weights", "--json")
    assert json.loads(result.stdout)["findings"][0]["code"] == "MPS301"
    assert "transformers.models.udop" in result.stderr


def test_a_cached_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    repository = tmp_path / "models--owner--name"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    (repository / "blobs").mkdir()
    (repository / "blobs" / "b").write_text("import torch\ntorch.cuda.synchronize()\n")
    (snapshot / "modeling_x.py").symlink_to(repository / "blobs" / "b")
    (snapshot / "config.json").write_text("{}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    (finding,) = json.loads(run("owner/name", "--json").stdout)["findings"]
    assert finding["path"].endswith("modeling_x.py")


def test_scanning_imports_neither_torch_nor_the_target(model: Path) -> None:
    (model / "error.py").write_text("raise SystemExit('run')\nimport torch\n")
    script = (
        "import sys; from mpsprobe.cli.scan import command; "
        "command.main(['.', '--fail-on', 'never'], standalone_mode=False, obj=__import__('mpsprobe.cli.sink', "
        "fromlist=['Sink']).Sink()); print(sorted({'torch', 'transformers', 'error'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=model,
        env={**os.environ, "PYTHONPATH": str(Path(mpsprobe.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"
