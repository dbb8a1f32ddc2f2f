"""`mpsprobe run --random-init`: no weights are fetched or read, and the report says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mpsprobe.models.targets import resolve
from mpsprobe.options import Settings
from mpsprobe.phases import download
from mpsprobe.phases.check import LinkFailed
from mpsprobe.run import Phase, Run, Status
from tests.cli.test_run import mpsprobe
from tests.support.hub_server import Repository, serve

_LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "dtype": "bfloat16",
}


def test_random_weights_fetch_small_files_only(tmp_path: Path) -> None:
    files = {"config.json": json.dumps(_LLAMA).encode(), "model.safetensors": b"must not be asked for"}
    with serve({"org/llama": Repository(files)}) as hub:
        done = mpsprobe(
            "run",
            "org/llama",
            "--random-init",
            "--shrink",
            "--device",
            "emulated",
            *("--new-tokens", "2", "--phase", "3", "--phase", "4", "--phase", "6"),
            cwd=tmp_path,
            HF_ENDPOINT=hub.url,
            HF_HOME=str(tmp_path / "hf"),
        )
        asked = [path for _, path, _ in hub.requests]
    assert done.returncode == 0, done.stdout + done.stderr
    assert any("config.json" in path for path in asked)
    assert not any("safetensors" in path for path in asked)
    run = Run.load(tmp_path / "reports" / "latest" / "run.json")
    checks = {check.id: check for check in run.checks}
    assert run.target.name == "org/llama (random weights, shrunk)"
    assert run.target.architecture == "LlamaForCausalLM"
    assert any("weights are random" in limit for limit in run.limits)
    assert any("num_hidden_layers 3 -> 2" in limit for limit in run.limits)
    for name in ("download.preflight", "download.dtypes", "transfer.values"):
        assert checks[name].status is Status.SKIPPED
        assert "random" in checks[name].message
    assert checks["inference.parity"].status is Status.PASS
    report = (tmp_path / "reports" / "latest" / "report.md").read_text()
    assert "random weights" in report.splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--shrink"], "--random-init"),
        (["package:Class"], "a class has no weights"),
        (["package:Class", "--random-init", "--config", "broken.json"], "broken.json: not valid JSON"),
        (["--dtype", "int8"], "--dtype int8"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(tmp_path: Path, arguments: list[str], says: str) -> None:
    (tmp_path / "broken.json").write_text("{")
    done = mpsprobe("run", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "reports").exists()


def test_what_only_the_target_knows_fails_in_one_line(tmp_path: Path) -> None:
    done = mpsprobe(
        "run", "json.decoder:Absent", "--random-init", "--device", "cpu", "--phase", "3", cwd=tmp_path
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    run = Run.load(tmp_path / "reports" / "latest" / "run.json")
    failed = next(check for check in run.checks if check.id == "download.files")
    assert failed.status is Status.FAIL
    assert "json.decoder has no Absent" in failed.message


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            {"architectures": ["Own"], "model_type": "own", "auto_map": {"AutoModel": "own.Own"}},
            "not run unasked",
        ),
        ({**_LLAMA, "hidden_size": 1 << 20, "intermediate_size": 1 << 22}, "GB are available"),
        ({**_LLAMA, "architectures": ["Absent"]}, "has no class Absent"),
    ],
)
def test_a_config_that_cannot_be_built_here_fails_phase_3(
    tmp_path: Path, config: dict[str, Any], says: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text("raise SystemExit('ran')\n")
    with pytest.raises(LinkFailed, match=says) as caught:
        download.obtain(resolve(Settings(str(tmp_path), random_init=True)), lambda _: None)
    assert (caught.value.phase, caught.value.result.status) == (Phase.DOWNLOAD, Status.FAIL)
    assert "\n" not in caught.value.result.message
