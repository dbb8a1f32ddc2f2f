"""Pipelines of diffusers without weights: sizes against published ones, and the loop run for real at tiny sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from mpsprobe.cli import cli
from mpsprobe.errors import TargetError
from mpsprobe.models.adapter import Adapter, Weights
from mpsprobe.models.targets import resolve
from mpsprobe.models.weightless import config_only, from_config
from mpsprobe.options import Settings
from mpsprobe.phases import transfer

pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore")  # those of diffusers about its own future

_CPU = torch.device("cpu")
_VAE = {
    "block_out_channels": [8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 4,
    "layers_per_block": 2,
}
_CLIP = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "projection_dim": 16,
    "max_position_embeddings": 77,
}
_UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 2,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "cross_attention_dim": 16,
}
_DIT = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 3,
    "sample_size": 8,
    "norm_num_groups": 4,
}
_FLUX = {
    "in_channels": 16,
    "num_layers": 3,
    "num_single_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 16,
    "pooled_projection_dim": 16,
    "axes_dims_rope": [4, 4, 8],
    "guidance_embeds": True,
}
_T5 = {"vocab_size": 64, "d_model": 16, "d_ff": 24, "num_layers": 3, "num_heads": 2, "d_kv": 8}

#: Pipeline -> its parts: library, class, config.
_PIPELINES: dict[str, dict[str, tuple[str, str, dict[str, Any]]]] = {
    "StableDiffusionPipeline": {
        "unet": ("diffusers", "UNet2DConditionModel", _UNET),
        "vae": ("diffusers", "AutoencoderKL", _VAE),
        "text_encoder": ("transformers", "CLIPTextModel", _CLIP),
        "tokenizer": ("transformers", "CLIPTokenizer", {}),
        "scheduler": ("diffusers", "DDIMScheduler", {}),
    },
    "DiTPipeline": {
        "transformer": ("diffusers", "DiTTransformer2DModel", _DIT),
        "vae": ("diffusers", "AutoencoderKL", _VAE),
        "scheduler": ("diffusers", "DDIMScheduler", {}),
    },
    "FluxPipeline": {
        "transformer": ("diffusers", "FluxTransformer2DModel", _FLUX),
        "vae": ("diffusers", "AutoencoderKL", {**_VAE, "latent_channels": 4, "shift_factor": 0.1}),
        "text_encoder": ("transformers", "CLIPTextModel", _CLIP),
        "text_encoder_2": ("transformers", "T5EncoderModel", _T5),
        "tokenizer": ("transformers", "CLIPTokenizer", {}),
        "tokenizer_2": ("transformers", "T5TokenizerFast", {}),
        "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler", {}),
    },
}


def _folder(path: Path, name: str) -> Path:
    index: dict[str, Any] = {"_class_name": name}
    for part, (library, cls, config) in _PIPELINES[name].items():
        index[part] = [library, cls]
        file = "scheduler_config.json" if part == "scheduler" else "config.json"
        if "tokenizer" not in part:  # none has files: ids are made up
            (path / part).mkdir()
            (path / part / file).write_text(json.dumps({"_class_name": cls, **config}))
    if name == "StableDiffusionPipeline":
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    (path / "model_index.json").write_text(json.dumps(index))
    return path


def _adapter(
    folder: Path, *, shrink: bool = False, weights: Weights = Weights.RANDOM
) -> tuple[Adapter, list[str]]:
    ref = resolve(Settings(str(folder), random_init=True, shrink=shrink))
    return config_only.make(ref, config_only.obtain(ref).path, weights)


@pytest.mark.parametrize("name", _PIPELINES)
def test_a_pipeline_makes_an_image_by_its_own_call(tmp_path: Path, name: str) -> None:
    adapter, changes = _adapter(_folder(tmp_path, name))
    assert changes == []
    model = adapter.load(_CPU, "auto")
    batch = adapter.prepare(adapter.sample())
    if "height" in batch or name == "FluxPipeline":
        batch |= {"height": 16, "width": 16}  # its default would be 1024
    with torch.inference_mode():
        first = adapter.extract(adapter.infer(model, dict(batch)))["images"]
        again = adapter.extract(adapter.infer(model, dict(batch)))["images"]
        latents = adapter.forward(model, dict(batch))["images"]
    assert first.shape[0] == 1
    assert first.shape[-1] == 3
    assert 0 <= first.min() <= first.max() <= 1
    assert torch.equal(first, again)
    assert latents.isfinite().all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", _PIPELINES)
def test_a_narrow_dtype_begins_with_the_same_noise(tmp_path: Path, name: str, dtype: str) -> None:
    adapter, _ = _adapter(_folder(tmp_path, name))
    batch = adapter.prepare(adapter.sample())
    if name != "DiTPipeline":
        batch |= {"height": 32, "width": 32}
    with torch.inference_mode():
        wide, narrow = (
            adapter.forward(adapter.load(_CPU, one), dict(batch))["images"].float()
            for one in ("float32", dtype)
        )
    assert (wide - narrow).abs().max() < 0.1 * wide.abs().max(), "two noises differ by more than all of it"


def test_what_a_config_leaves_to_its_class_is_shrunk_too(tmp_path: Path) -> None:
    folder = _folder(tmp_path, "FluxPipeline")
    config = {name: value for name, value in _FLUX.items() if name not in ("num_layers", "num_single_layers")}
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    changes = _adapter(folder, shrink=True)[1]
    assert "transformer.num_layers 19 -> 2; transformer.num_single_layers 38 -> 2" in changes[0]  # FLUX.1's


def test_shrinking_keeps_widths_and_every_part(tmp_path: Path) -> None:
    folder = _folder(tmp_path, "StableDiffusionPipeline")
    whole = _adapter(folder)[0].load(_CPU, "auto")
    adapter, changes = _adapter(folder, shrink=True)
    small = adapter.load(_CPU, "auto")
    assert [name for name, _ in small.named_children()] == [name for name, _ in whole.named_children()]
    assert "unet.layers_per_block 2 -> 1" in changes[0]
    assert "num_hidden_layers 3 -> 2" in changes[0]
    widths = {"unet.conv_in.weight", "text_encoder.text_model.embeddings.token_embedding.weight"}
    of_whole, of_small = dict(whole.named_parameters()), dict(small.named_parameters())
    assert all(of_small[name].shape == of_whole[name].shape for name in widths)
    assert len(of_small) < len(of_whole)


@pytest.mark.parametrize(
    ("cls", "config", "parameters"),
    [
        # published: model cards and papers; DiT-XL/2 has 675 M (arXiv 2212.09748, table 4) with its class table
        ("UNet2DConditionModel", {"sample_size": 64, "cross_attention_dim": 768}, 859_520_964),
        ("FluxTransformer2DModel", {"guidance_embeds": True}, 11_901_408_320),
    ],
)
def test_sizes_are_the_published_ones(
    cls: str, config: dict[str, Any], parameters: int, tmp_path: Path
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"_class_name": cls, "_diffusers_version": "0.30.0", **config}))
    blueprint = from_config.of_class(f"diffusers:{cls}", file)
    model = from_config.build(
        blueprint.model_class, blueprint.config, torch.device("meta"), "float16", initialise=False
    )
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize(
    ("cls", "config"),
    [
        ("UNet2DConditionModel", _UNET),
        ("AutoencoderKL", _VAE),
        ("DiTTransformer2DModel", _DIT),
        ("FluxTransformer2DModel", _FLUX),
    ],
)
def test_a_single_model_is_fed_by_its_config(cls: str, config: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"_class_name": cls, **config}))
    ref = resolve(Settings(f"diffusers:{cls}", config=str(file), random_init=True))
    adapter, _ = config_only.make(ref, config_only.obtain(ref).path, Weights.RANDOM)
    with torch.inference_mode():
        outputs = adapter.infer(adapter.load(_CPU, "auto"), adapter.prepare(adapter.sample()))
    assert outputs["sample"].isfinite().all()


def test_a_pipeline_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "NoSuchPipeline"}')
    with pytest.raises(TargetError, match="no pipeline NoSuchPipeline") as problem:
        _adapter(tmp_path)[0].load(_CPU, "auto")
    assert "\n" not in problem.value.what


def test_a_part_without_a_config_is_one_line(tmp_path: Path) -> None:
    folder = _folder(tmp_path, "DiTPipeline")
    (folder / "vae" / "config.json").unlink()
    with pytest.raises(TargetError, match=r"vae has no config\.json"):
        _adapter(folder)[0].load(_CPU, "auto")
    (folder / "vae" / "config.json").write_text("[]")
    with pytest.raises(TargetError, match="expected a JSON object"):
        _adapter(folder)[0].load(_CPU, "auto")


@pytest.mark.parametrize(
    ("part", "stated", "said"),
    [
        ("unet", {"quant_method": "bitsandbytes", "load_in_4bit": True}, "No GPU found"),
        ("text_encoder", {"quant_method": "gptq", "bits": 4, "group_size": 128}, "optimum"),
        ("unet", {"quant_method": "svd_special"}, "Unknown quantization type"),
    ],
)
def test_a_quantised_part_is_named(tmp_path: Path, part: str, stated: dict[str, Any], said: str) -> None:
    folder = _folder(tmp_path, "StableDiffusionPipeline")
    file = folder / part / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": stated}))
    options = ["predict", str(folder), "--torch", "2.13", "--mac", "m1-max-32", "--json"]
    result = CliRunner().invoke(cli, options)
    assert result.exit_code == 1, result.output
    document = json.loads(result.stdout)
    (refusal,) = (one for one in document["predicted"]["refusals"] if one["kind"] == "quantisation")
    assert part in refusal["message"]
    assert said in refusal["message"]
    advice = document["outlook"]["recommendation"]
    assert not advice["sentence"].startswith("Use MPS.")


def test_phase_4_names_a_quantised_part(tmp_path: Path) -> None:
    folder = _folder(tmp_path, "StableDiffusionPipeline")
    file = folder / "unet" / "config.json"
    stated = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": stated}))
    ref = resolve(Settings(model=str(folder), random_init=True))
    adapter, _ = config_only.make(ref, folder, Weights.NONE)
    answer = transfer._answer(adapter, config_only.obtain(ref))
    assert answer is not None
    assert answer.raises
    assert answer.title == "unet (bitsandbytes, 8 bits)"
    assert "No GPU found" in answer.error
