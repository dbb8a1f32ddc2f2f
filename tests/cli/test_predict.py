from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from mpsprobe.cli import cli
from mpsprobe.errors import MpsprobeError
from mpsprobe.run import Run
from tests.support.hub_server import Repository, serve

pytestmark = pytest.mark.filterwarnings("ignore")  # those of transformers about options of tiny configs

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 600,
    "hidden_size": 128,
    "intermediate_size": 520,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "dtype": "bfloat16",
}


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["predict", *map(str, arguments)], catch_exceptions=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    return tmp_path


@pytest.mark.parametrize(
    "words", [("--torch", "2.8", "--mac", "m1-max-64", "-v"), ("--torch", "all", "--shrink")]
)
def test_people_read_it_in_80_columns(
    folder: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = call(folder, "--new-tokens", "2", *words).stdout.splitlines()
    shell = [line for line in lines if line.startswith("  $ ") or str(folder) in line]
    assert [line for line in lines if len(line) > 80 and line not in shell] == []


def test_people_read_verdicts_and_what_is_not_known(folder: Path) -> None:
    result = call(folder, "--torch", "2.13", "--new-tokens", "3", "-v")
    assert result.exit_code == 0, result.output
    assert "LlamaForCausalLM" in result.stdout
    assert "generate, 3 new tokens" in result.stdout
    assert "Predicted for torch 2.13, macOS not given" in result.stdout
    assert "No result was computed" in result.stdout
    assert "the installed torch" in result.stdout


def test_machines_read_one_document(folder: Path) -> None:
    result = call(folder, "--torch", "2.3", "--macos", "15.5", "--mac", "m1-max-64", "--json")
    assert result.exit_code == 1  # isin came to MPS in 2.4
    document = json.loads(result.stdout)
    assert (document["mac"]["torch"], document["mac"]["macos"], document["device"]["used"]) == (
        "2.3",
        "15.5",
        "predicted",
    )
    assert (document["mac"]["chip"], document["mac"]["memory_gb"]) == ("Apple M1 Max", 64)
    assert document["predicted"]["dtypes"] == {"bfloat16": document["target"]["parameters"]}
    uses = document["op_uses"]
    assert msgspec.json.decode(result.stdout, type=Run).op_uses  # the schema of run.json
    assert {use["evidence"] for use in uses} == {"predicted"}
    raised = {use["op"] for use in uses if use["verdict"] == "raises"}
    assert "aten::isin.Tensor_Tensor_out" in raised


def test_a_region_asked_for_is_around_the_inference(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({**LLAMA, "dtype": "float32"}))
    dtypes, notes = {}, {}
    for choice in ("none", "bfloat16", "cpu:bfloat16"):
        document = json.loads(call(folder, "--autocast", choice, "--torch", "2.13", "--json").stdout)
        dtypes[choice] = {use["inputs"][0][0] for use in document["op_uses"] if use["op"] == "aten::linear"}
        notes[choice] = document["predicted"]["notes"]
    # PyTorch's autocast casts the operands of linear on its own device type, and of no other
    assert dtypes == {"none": {"float32"}, "bfloat16": {"bfloat16"}, "cpu:bfloat16": {"float32"}}
    assert "Asked for: autocast of the CPU to bfloat16 around inference." in notes["cpu:bfloat16"]


def test_all_releases_in_one_table(folder: Path) -> None:
    result = call(folder, "--torch", "all", "--shrink", "--new-tokens", "2", "--json")
    document = json.loads(result.stdout)
    assert [row["torch"] for row in document["predicted"]["releases"]][:2] == ["2.1", "2.2"]
    assert document["predicted"]["first_fully_native"] in [
        row["torch"] for row in document["predicted"]["releases"]
    ]
    assert document["predicted"]["notes"][0] == "Shrunk: num_hidden_layers 3 -> 2."


def test_a_prediction_lets_go_of_the_model_it_built(folder: Path) -> None:
    from transformers import LlamaForCausalLM

    assert call(folder, "--new-tokens", "2").exit_code == 0
    gc.collect()
    assert not [one for one in gc.get_objects() if type(one) is LlamaForCausalLM]


def test_a_class_with_its_config(folder: Path) -> None:
    result = call("transformers:LlamaForCausalLM", "--config", folder / "config.json", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["target"]["name"] == "transformers:LlamaForCausalLM"


def test_a_release_that_does_not_open_mps_on_that_macos(folder: Path) -> None:
    problem = call(folder, "--torch", "2.13", "--macos", "12.5").exception
    assert isinstance(problem, MpsprobeError)
    assert "torch 2.13 has no MPS on macOS 12.5" in problem.what
    table = call(folder, "--torch", "all", "--macos", "12.5", "--new-tokens", "1", "--json")
    rows = {row["torch"]: row for row in json.loads(table.stdout)["predicted"]["releases"]}
    assert rows["2.13"]["stopped"].startswith("torch 2.13 needs macOS 14.0")
    assert (rows["2.13"]["calls"], rows["2.13"]["fully_native"]) == ({}, False)
    assert rows["2.1"]["calls"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("/no/such/folder",), "no such folder"),
        (("--torch", "1.13"), "No op data on torch 1.13"),
        (("--mac", "m9-1"), "No Mac is called 'm9-1'"),
        (("--macos", "abc"), "macOS 'abc' is not a version"),
        (("no_such_package:Model",), "cannot be imported"),
        (("--config", "x.json"), "--config goes with a class"),
        (("--dtype", "bf16"), "weights are not loaded in that"),
        (("--shrink",), "adapter of its own"),
        (("--autocast", "int8"), "--autocast int8: no such choice"),
        (("--autocast", "parts:bfloat16"), "profile tiny-drive knows no parts"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], message: str) -> None:
    problem = call(*arguments).exception
    assert isinstance(problem, MpsprobeError)
    assert problem.exit_code == 2
    assert message in problem.what
    assert "\n" not in problem.what


def test_a_repository_keeps_its_weights(tmp_path: Path) -> None:
    files = {"config.json": json.dumps(LLAMA).encode(), "model.safetensors": b"never asked for"}
    with serve({"org/model": Repository(files)}) as server:
        done = subprocess.run(
            [sys.executable, "-c", "from mpsprobe.cli import main; main()", "predict", "org/model", "--json"],
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
                "HF_ENDPOINT": server.url,
                "HF_HOME": str(tmp_path),
                "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["target"]["architecture"] == "LlamaForCausalLM"
    fetched = {path.name for path in tmp_path.rglob("*") if path.is_symlink()}
    assert fetched == {"config.json"}
