"""MLX against torch, where MLX is installed: CI runs this on Linux (requirements in docs/routes.md)."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mpsprobe.errors import TargetError
from mpsprobe.models.weightless import from_config, small_copy
from mpsprobe.routes.mlx import mlx_parity

#: Importing any of them would change this process: see `parity_child`.
MISSING = [name for name in ("mlx", "mlx_lm", "mlx_vlm") if importlib.util.find_spec(name) is None]
needs_mlx = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")

TEXT: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 4000,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    **TEXT,
}
QWEN3: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "torch_dtype": "bfloat16",
    **TEXT,
}
QWEN3_VL: dict[str, Any] = {
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "model_type": "qwen3_vl",
    "image_token_id": 3990,
    "video_token_id": 3991,
    "vision_start_token_id": 3992,
    "vision_end_token_id": 3993,
    "tie_word_embeddings": False,
    "text_config": {
        **TEXT,
        "model_type": "qwen3_vl_text",
        "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [12, 10, 10]},
    },
    "vision_config": {
        "model_type": "qwen3_vl",
        "depth": 4,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 4,
        "out_hidden_size": 512,
        "deepstack_visual_indexes": [0, 1, 2],
    },
}


def copied(config: dict[str, Any], folder: Path) -> small_copy.SmallCopy:
    (folder / "target").mkdir()
    (folder / "target" / "config.json").write_text(json.dumps(config))
    return small_copy.write(from_config.of_folder(folder / "target"), folder / "copy")


@needs_mlx
@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "package", "inputs"),
    [
        (LLAMA, "mlx-lm", ["text"]),
        (QWEN3, "mlx-lm", ["text"]),
        (QWEN3_VL, "mlx-vlm", ["text", "image and text"]),
    ],
    ids=["llama", "qwen3", "qwen3_vl"],
)
def test_the_same_weights_give_the_same_logits(
    config: dict[str, Any], package: str, inputs: list[str], tmp_path: Path
) -> None:
    copy = copied(config, tmp_path)
    result = mlx_parity.run(copy.folder, copy.model_class, copy.feeds)
    assert result.package == package
    assert not result.problem
    assert [feed.name for feed in result.feeds] == inputs
    assert all(feed.agrees for feed in result.feeds), result.feeds
    assert all(control.caught for control in result.controls), result.controls
    # the rotary base, and a matrix of each tower
    assert len(result.controls) == (3 if "vision_config" in config else 2)
    assert result.agrees


@needs_mlx
@pytest.mark.slow
def test_a_copy_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = copied(LLAMA, tmp_path)
    variants = mlx_parity._variants

    def swapped(folder: Path, scratch: Path) -> dict[str, Path]:
        made = variants(folder, scratch)
        name, wrong = next((name, path) for name, path in made.items() if name)
        return {**made, "": wrong, name: made[""]}

    monkeypatch.setattr(mlx_parity, "_variants", swapped)
    result = mlx_parity.run(copy.folder, copy.model_class, copy.feeds)
    assert not result.feeds[0].agrees
    assert not result.agrees


@needs_mlx
@pytest.mark.slow
def test_weights_that_are_missing_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file, save_file

    copy = copied(LLAMA, tmp_path)

    def stripped(folder: Path, scratch: Path) -> dict[str, Path]:
        shutil.copytree(folder, scratch / "true")
        weights = load_file(scratch / "true" / "model.safetensors")
        weights.pop("model.layers.0.mlp.up_proj.weight")
        save_file(weights, scratch / "true" / "model.safetensors", metadata={"format": "pt"})
        return {"": scratch / "true"}

    monkeypatch.setattr(mlx_parity, "_variants", stripped)
    result = mlx_parity.run(copy.folder, copy.model_class, copy.feeds)
    assert "up_proj" in result.problem
    assert not result.agrees


def test_code_beside_the_checkpoint_is_not_run(tmp_path: Path) -> None:
    copy = copied(LLAMA, tmp_path)
    config = json.loads((copy.folder / "config.json").read_text())
    (copy.folder / "config.json").write_text(json.dumps({**config, "model_file": "evil.py"}))
    with pytest.raises(TargetError, match="model_file"):
        mlx_parity.run(copy.folder, copy.model_class, copy.feeds)


def test_an_architecture_that_no_library_has_is_told() -> None:
    with pytest.raises(TargetError, match="alpamayo_r1"):
        mlx_parity.library_for({"model_type": "alpamayo_r1"})


def test_a_small_copy_keeps_what_makes_the_architecture(tmp_path: Path) -> None:
    copy = copied(QWEN3_VL, tmp_path)
    config = json.loads((copy.folder / "config.json").read_text())
    text = config["text_config"]
    assert text["head_dim"] == TEXT["head_dim"]
    ratio = TEXT["num_attention_heads"] / TEXT["num_key_value_heads"]
    assert text["num_attention_heads"] / text["num_key_value_heads"] == ratio
    assert text["rope_theta"] == TEXT["rope_theta"]
    assert text["vocab_size"] < TEXT["vocab_size"]
    # special tokens moved with the vocabulary, and are still told apart
    special = [config[name] for name in QWEN3_VL if name.endswith("_token_id")]
    assert len(set(special)) == len(special)
    assert max(special) < text["vocab_size"]
    ids = copy.feeds["image and text"]["input_ids"]
    assert (ids == config["image_token_id"]).any()
    assert not (copy.feeds["text"]["input_ids"] == config["image_token_id"]).any()
    # the weights are float32 whatever the target's are: mlx-vlm computes in the dtype that it finds
    from safetensors.torch import load_file

    weights = load_file(copy.folder / "model.safetensors")
    assert {str(one.dtype) for one in weights.values()} == {"torch.float32"}
    norms = [one for name, one in weights.items() if name.endswith("input_layernorm.weight")]
    assert all(float(one.std()) > 0 for one in norms)
