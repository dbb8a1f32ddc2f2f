"""What a prediction imports: the model's own class, and nothing that no model without weights calls."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("scipy")

_CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 500,
}  # fmt: skip

_CODE = """
import json, runpy, sys
sys.argv = ["mpsprobe", "-q", "predict", sys.argv[1], "--torch", "2.15"]
try:
    runpy.run_module("mpsprobe", run_name="__main__")
except SystemExit as end:
    assert end.code in (0, None), end.code
loaded = sorted(sys.modules)
import torch
from transformers.loss import loss_for_object_detection as loss
costs = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
print(json.dumps([loaded, [ends.tolist() for ends in loss.linear_sum_assignment(costs)], loss.is_scipy_available()]))
"""


def test_a_prediction_imports_its_own_model_only(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(_CONFIG))
    ran = subprocess.run([sys.executable, "-c", _CODE, str(tmp_path)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    modules, assigned, there = json.loads(ran.stdout.splitlines()[-1])
    models = {name.split(".")[2] for name in modules if name.startswith("transformers.models.")}
    assert models == {"auto", "llama"}
    assert {name.split(".")[0] for name in modules} & {"torchvision", "scipy", "sklearn", "pandas"} == set()
    # and where SciPy is called after all, it is there
    assert assigned == [[0, 1], [1, 0]]
    assert there
