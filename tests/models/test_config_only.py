"""Targets without their weights: what is fetched, what is built, and that every dtype gets the same weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from mpsprobe.errors import MpsprobeError, UsageError
from mpsprobe.models.adapter import Adapter, Weights
from mpsprobe.models.targets import resolve
from mpsprobe.models.weightless import config_only
from mpsprobe.options import Settings

_CPU = torch.device("cpu")
_CONFIG = {
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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(_CONFIG))
    return tmp_path


def _made(wanted: Settings) -> Adapter:
    ref = resolve(wanted)
    return config_only.make(ref, config_only.obtain(ref).path, Weights.RANDOM)[0]


def test_a_reference_in_another_dtype_has_the_same_weights(folder: Path) -> None:
    adapter = _made(Settings(str(folder), random_init=True))
    in_bfloat16, in_float32, in_float16 = (
        adapter.load(_CPU, dtype).state_dict() for dtype in ("auto", "float32", "float16")
    )
    assert len({value.flatten()[0].item() for value in in_float32.values()}) > 2  # not all alike
    for name, value in in_bfloat16.items():
        assert value.dtype is torch.bfloat16
        assert torch.equal(value.float(), in_float32[name]), name
        assert torch.equal(value.half(), in_float16[name]), name


def test_a_reference_takes_the_input_of_the_device(folder: Path) -> None:
    config = {"architectures": ["ViTModel"], "model_type": "vit", "hidden_size": 24, "intermediate_size": 32}
    config |= {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    adapter = _made(Settings(str(folder), random_init=True))
    with torch.inference_mode():
        outputs = adapter.forward(adapter.load(_CPU, "float32"), adapter.prepare(adapter.sample()))
    assert outputs["last_hidden_state"].dtype is torch.float32


def test_the_size_is_known_without_the_memory(folder: Path) -> None:
    (folder / "config.json").write_text(
        json.dumps({**_CONFIG, "hidden_size": 16384, "num_hidden_layers": 80})
    )
    adapter = _made(Settings(str(folder), random_init=True))
    size = config_only.size(adapter, "auto")
    assert size is not None
    # embedding and head, and in each layer q and o, k and v of half the heads, three of the MLP, two norms
    layer = 2 * 16384**2 + 2 * 16384 * 8192 + 3 * 16384 * 48 + 2 * 16384
    assert size.parameters == 2 * 64 * 16384 + 80 * layer + 16384
    assert size.nbytes == pytest.approx(2 * size.parameters, rel=1e-6)
    assert adapter.weights is Weights.RANDOM


def test_a_class_is_found_in_the_folder_of_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted_module.py").write_text(
        "import torch\n"
        "class Planted(torch.nn.Linear):\n"
        "    dummy_inputs = property(lambda self: {'input': torch.zeros(2, self.in_features)})\n"
    )
    (tmp_path / "sizes.json").write_text('{"in_features": 3, "out_features": 5}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    wanted = Settings("planted_module:Planted", config="sizes.json", random_init=True)
    adapter = _made(wanted)
    model = adapter.load(_CPU, "auto")
    assert adapter.forward(model, adapter.prepare(adapter.sample()))["output"].shape == (2, 5)
    with pytest.raises(UsageError, match="planted_module has no Absent"):
        _made(Settings("planted_module:Absent", random_init=True))
    with pytest.raises(UsageError, match="cannot be imported"):
        _made(Settings("no_such_module:Planted", random_init=True))
    (tmp_path / "planted_exit.py").write_text("import sys\nsys.exit(4)\n")
    with pytest.raises(UsageError, match="cannot be imported: SystemExit: 4"):
        _made(Settings("planted_exit:Planted", random_init=True))


def test_an_adapter_of_its_own_shrinks_only_where_it_knows_how() -> None:
    ref = resolve(Settings(random_init=True, shrink=True))
    with pytest.raises(UsageError, match="which --shrink does not know"):
        config_only.make(ref, config_only.obtain(ref).path, Weights.RANDOM)


def _remote(folder: Path) -> Path:
    (folder / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["OwnModel"],
                "model_type": "own",
                "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"},
            }
        )
    )
    (folder / "own.py").write_text(
        "import torch\n"
        "from pathlib import Path\n"
        "from transformers import PretrainedConfig, PreTrainedModel\n"
        f"Path({str(folder / 'ran')!r}).touch()\n"
        "class OwnConfig(PretrainedConfig):\n"
        "    model_type = 'own'\n"
        "class OwnModel(PreTrainedModel):\n"
        "    config_class = OwnConfig\n"
        "    main_input_name = 'pixel_values'\n"
        "    def __init__(self, config):\n"
        "        super().__init__(config)\n"
        "        self.layer = torch.nn.Linear(4, 4)\n"
        "        self.post_init()\n"
        "    def forward(self, input_ids):\n"
        "        return {'out': self.layer(input_ids[:, :4].float())}\n"
    )
    return folder


def test_repository_code_runs_only_when_asked_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    folder = _remote(tmp_path)
    with pytest.raises(MpsprobeError, match="not run unasked") as caught:
        _made(Settings(str(folder), random_init=True))
    assert "own.py" in caught.value.hint
    assert not (folder / "ran").exists()
    ref = resolve(Settings(str(folder), random_init=True, trust_remote_code=True))
    told: list[str] = []

    def say(text: str) -> None:
        assert not (folder / "ran").exists(), "told before it runs"
        told.append(text)

    adapter, _ = config_only.make(ref, config_only.obtain(ref).path, Weights.RANDOM, say)
    assert "own.py" in told[0]
    assert (folder / "ran").exists()
    assert type(adapter.load(_CPU, "auto")).__name__ == "OwnModel"
