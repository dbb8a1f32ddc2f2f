"""`mpsprobe macs`, and the workload on `mpsprobe predict`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mpsprobe.cli import cli
from mpsprobe.errors import UsageError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the predicting device runs on Linux")
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 4096,
    "torch_dtype": "float16",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def test_every_mac_has_a_row_with_its_fit_and_its_speed(folder: Path) -> None:
    answer = CliRunner().invoke(cli, ["macs", str(folder), "--torch", "2.8", "--json"])
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    rows = {row["mac"]: row for row in found["rows"]}
    assert {"m1-8c-8", "m4-max-40c-128", "m5-10c-16"} <= set(rows)
    assert all(row["fit"] == "comfortable" for row in rows.values())
    assert found["smallest"] == "m3-8c-8"  # the newest with the least memory
    decode = {
        name: next(r["expected"] for r in row["rates"] if r["name"] == "decode") for name, row in rows.items()
    }
    assert decode["m4-max-40c-128"] > decode["m1-8c-8"]


def test_a_target_whose_code_stops_is_not_called_a_fit(tmp_path: Path) -> None:
    (tmp_path / "target.py").write_text(
        "import torch\n"
        "def load(device, dtype, weights='stored'): return torch.nn.Linear(4, 2).to(device)\n"
        "def sample(): return {'x': 0}\n"
        "def prepare(sample): return {'x': torch.ones(1, 4)}\n"
        "def infer(model, batch): model(batch['x']); raise ValueError('planted')\n"
        "def extract(raw): return {'y': raw}\n"
    )
    answer = CliRunner().invoke(cli, ["macs", str(tmp_path / "target.py"), "--torch", "2.8"])
    assert answer.exit_code == 3, answer.output
    assert "The model's own code stopped: ValueError: planted (at target.py:5)." in answer.output


def test_a_workload_is_stated_and_carried_on(folder: Path) -> None:
    words = ["predict", str(folder), "--mac", "m1-max-64", "--torch", "2.8", "--macos", "15.5"]
    more = ["--prompt-tokens", "100", "--new-tokens", "500", "--batch", "2", "--samples", "40", "--json"]
    answer = CliRunner().invoke(cli, [*words, *more])
    found = json.loads(answer.stdout)
    forecast = found["outlook"]["forecast"]
    assert forecast["workload"] == "a prompt of 100 tokens, 500 new tokens, batch 2"
    decode = next(part for part in forecast["time"]["parts"] if part["name"] == "decode")
    assert decode["repeats"] == 499
    assert any("40 samples" in reason for route in found["outlook"]["routes"] for reason in route["reasons"])


def test_a_smaller_cache_changes_memory_only(folder: Path) -> None:
    words = ["predict", str(folder), "--mac", "m1-max-64", "--torch", "2.8", "--macos", "15.5", "--json"]
    whole, small = (
        json.loads(CliRunner().invoke(cli, [*words, *more]).stdout)["outlook"]["forecast"]["memory"]["parts"]
        for more in ([], ["--kv-dtype", "int8"])
    )
    sizes = [{part["name"]: part["bytes"] for part in parts} for parts in (whole, small)]
    assert sizes[1]["KV cache"] == pytest.approx(sizes[0]["KV cache"] * 8.5 / 16, rel=0.01)
    assert sizes[1]["weights"] == sizes[0]["weights"]


def test_a_kv_dtype_that_does_not_exist_is_refused(folder: Path) -> None:
    answer = CliRunner().invoke(cli, ["predict", str(folder), "--kv-dtype", "int3"])
    assert isinstance(answer.exception, UsageError)
    assert "int3" in answer.exception.what


def test_a_prediction_holds_the_target_against_the_same_macs(folder: Path) -> None:
    words = [str(folder), "--torch", "2.8", "--macos", "15.5", "--json"]
    rows = json.loads(CliRunner().invoke(cli, ["macs", *words]).stdout)["rows"]
    made = json.loads(CliRunner().invoke(cli, ["predict", *words, "--mac", "m1-max-64"]).stdout)["outlook"]
    assert made["macs"] == rows
    assert made["recommendation"]["commands"][-1] == f"mpsprobe run {folder} --device mps"


def test_the_first_lines_say_what_is_done_where_nobody_asked(folder: Path) -> None:
    words = ["predict", str(folder), "--mac", "m1-max-64", "--torch", "2.8", "--macos", "15.5"]
    shown = " ".join(CliRunner().invoke(cli, words).stdout.split())
    before_the_memory = shown[: shown.index("Memory:")]
    assert re.search(
        r"Workload: a prompt of \d+ tokens, 128 new tokens, batch 1 \(defaults", before_the_memory
    )


def test_an_older_torch_takes_the_measured_longer_time(tmp_path: Path) -> None:
    """phi-2 on torch 2.1.2 and an M1 Max took 112 ms a token: mihasK/phi2-llm-on-MLX-vs-Pytorch-MPS."""
    phi = {
        "architectures": ["PhiForCausalLM"],
        "model_type": "phi",
        "vocab_size": 51200,
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "torch_dtype": "float16",
    }
    (tmp_path / "config.json").write_text(json.dumps(phi))
    words = [
        "predict",
        str(tmp_path),
        "--mac",
        "m1-max-64",
        "--macos",
        "14.1",
        "--prompt-tokens",
        "8",
        "--json",
    ]
    rates = {}
    for torch in ("2.1", "2.8"):
        found = json.loads(CliRunner().invoke(cli, [*words, "--torch", torch]).stdout)
        time = found["outlook"]["forecast"]["time"]
        rates[torch] = next(one for one in time["rates"] if one["name"] == "decode")
    assert rates["2.1"]["low"] < 1000 / 112 < rates["2.1"]["high"]
    assert rates["2.8"]["expected"] > rates["2.1"]["expected"]
