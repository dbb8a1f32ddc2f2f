"""`mpsprobe parity` where MLX is not installed; `tests/routes/test_parity.py` has what it computes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mpsprobe.cli import cli
from mpsprobe.errors import UsageError

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64}


def test_without_mlx_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlx" else find(name))
    answer = CliRunner().invoke(cli, ["parity", str(tmp_path)])
    assert isinstance(answer.exception, UsageError)
    assert answer.exception.what == "mlx is not installed."
    assert "pip install" in answer.exception.hint
