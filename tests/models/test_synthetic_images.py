"""Prompts with an image: the number of places asked of the model itself, and the models take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from mpsprobe.models import profile
from mpsprobe.models.weightless import synthetic_images
from mpsprobe.models.weightless.from_config import Blueprint
from mpsprobe.models.weightless.random_init import RandomInitAdapter

pytestmark = pytest.mark.filterwarnings("ignore")  # those of transformers about tiny configs

_TEXT = {
    "vocab_size": 120,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
_VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_CLIP = {
    "model_type": "clip_vision_model",
    **_VISION,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 32,
}
_LLAMA, _QWEN_2, _LFM_2 = ({"model_type": name, **_TEXT} for name in ("llama", "qwen2", "lfm2"))
_NARROW = {"hidden_size": 32, "d_kv": 8, "d_ff": 48}
_T5 = {**_NARROW, "vocab_size": 99, "num_layers": 1, "num_heads": 4}
_PATCHES = {**_NARROW, "patch_embed_hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4}
_LLAVA = {"image_token_index": 119, "vision_config": _CLIP, "text_config": _LLAMA}
_SIGLIP_2 = {"model_type": "siglip2_vision_model", **_VISION, "patch_size": 8, "num_patches": 256}
_GOT = {**_VISION, "output_channels": 32, "image_size": 64, "patch_size": 4, "global_attn_indexes": [1]}
_LLAMA_3_2 = {
    "image_token_index": 119,
    "vision_config": {
        **{name: value for name, value in _VISION.items() if name != "num_attention_heads"},
        "attention_heads": 4,
        "num_global_layers": 1,
        "image_size": 32,
        "patch_size": 8,
        "vision_output_dim": 64,
        "intermediate_layers_indices": [0],
        "max_num_tiles": 2,
        "supported_aspect_ratios": [[1, 1], [1, 2]],
    },
    "text_config": {
        **_TEXT,
        "num_hidden_layers": 2,
        "cross_attention_layers": [1],
        "rope_scaling": {"rope_type": "default"},
        "pad_token_id": 1,
    },
}

#: Class, its config, and the places that its image takes: patches, less what the class does to them.
_FED: list[tuple[str, dict[str, Any], int]] = [
    ("LlavaForConditionalGeneration", _LLAVA, 16),  # 32 / 8 squared
    # an image of 32 x 64: two tiles of 4 x 4 beside the whole, and a newline feature after each of 4 rows
    ("LlavaNextForConditionalGeneration", {**_LLAVA, "image_grid_pinpoints": [[32, 64]]}, 16 + 32 + 4),
    # 16 x 16 patches, halved twice across and down
    ("GotOcr2ForConditionalGeneration", {"image_token_index": 119, "vision_config": _GOT, "text_config": _QWEN_2}, 16),
    # the config says nothing of the number: 16 x 16 patches in blocks of 2 x 2
    ("Lfm2VlForConditionalGeneration", {"image_token_id": 119, "vision_config": _SIGLIP_2, "text_config": _LFM_2}, 64),
]  # fmt: skip


def _adapter(name: str, config: dict[str, Any]) -> RandomInitAdapter:
    cls = getattr(transformers, name)
    blueprint = Blueprint(name, cls, cls.config_class(**config))
    return RandomInitAdapter(Path(), profile.load("transformers"), blueprint)


@pytest.mark.parametrize(("name", "config", "places"), _FED, ids=[name for name, _, _ in _FED])
def test_the_prompt_has_a_place_for_each_feature(name: str, config: dict[str, Any], places: int) -> None:
    adapter = _adapter(name, config)
    batch = adapter.prepare(adapter.sample())
    assert int((batch["input_ids"] == 119).sum()) == places
    assert f"The prompt holds {places} places for one image." in adapter.notes
    with torch.inference_mode():
        assert adapter.infer(adapter.load(torch.device("cpu"), "auto"), batch)["tokens"].shape[0] == 1


def test_a_cross_attended_image_takes_one_place() -> None:
    adapter = _adapter("MllamaForConditionalGeneration", _LLAMA_3_2)
    batch = adapter.prepare(adapter.sample())
    assert int((batch["input_ids"] == 119).sum()) == 1
    assert batch["pixel_values"].shape == (1, 1, 2, 3, 32, 32)
    with torch.inference_mode():
        adapter.infer(adapter.load(torch.device("cpu"), "auto"), batch)


def test_a_class_that_cannot_be_asked() -> None:
    config = transformers.LlamaConfig(**_TEXT)
    assert synthetic_images.count_features(transformers.LlamaForCausalLM, config, {}) is None


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("Siglip2ForImageClassification", {"vision_config": _SIGLIP_2}),
        (
            "SpeechT5ForTextToSpeech",
            {
                "vocab_size": 99,
                "hidden_size": 32,
                "encoder_layers": 1,
                "encoder_attention_heads": 4,
                "encoder_ffn_dim": 48,
                "decoder_layers": 1,
                "decoder_attention_heads": 4,
                "decoder_ffn_dim": 48,
            },
        ),
        (
            "Pix2StructForConditionalGeneration",
            {
                "text_config": _T5,
                "vision_config": _PATCHES,
            },
        ),
        ("CanineForSequenceClassification", {**_VISION, "num_hidden_layers": 1}),
    ],
)  # fmt: skip
def test_models_with_inputs_of_their_own_kind(name: str, config: dict[str, Any]) -> None:
    adapter = _adapter(name, config)
    with torch.inference_mode():
        outputs = adapter.forward(adapter.load(torch.device("cpu"), "auto"), adapter.prepare({}))
    assert all(bool(value.isfinite().all()) for value in outputs.values() if value.is_floating_point())
