"""Inputs from a folder's own tokenizer and processors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from tokenizers import Tokenizer  # type: ignore[import-untyped]
from tokenizers.models import WordLevel  # type: ignore[import-untyped]
from tokenizers.pre_tokenizers import Whitespace  # type: ignore[import-untyped]

from mpsprobe.models import profile
from mpsprobe.models.weightless.from_config import Blueprint
from mpsprobe.models.weightless.random_init import RandomInitAdapter
from mpsprobe.models.weightless.weights_dtype import dtype_of

pytestmark = pytest.mark.filterwarnings("ignore")  # those of transformers about tiny configs

_TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
}


def _adapter(folder: Path, name: str, **config: Any) -> RandomInitAdapter:
    cls = getattr(transformers, name)
    blueprint = Blueprint(name, cls, cls.config_class(**config), folder)
    return RandomInitAdapter(folder, profile.load("transformers"), blueprint)


def _write_tokenizer(folder: Path) -> Tokenizer:
    text = "The capital of France is Paris , and the Italy A shorter text ."
    words = ["[UNK]", "[PAD]", *text.split()]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return tokenizer


def test_text_is_made_with_the_folders_tokenizer(tmp_path: Path) -> None:
    tokenizer = _write_tokenizer(tmp_path)
    adapter = _adapter(tmp_path, "LlamaForCausalLM", **_TEXT)
    batch = adapter.prepare(adapter.sample())
    decoded = tokenizer.decode(batch["input_ids"][0].tolist())
    assert decoded == "The capital of France is Paris , and the capital of Italy is"
    assert "token_type_ids" not in batch
    assert "The text is made with the folder's tokenizer." in adapter.notes


def test_an_encoder_gets_two_texts_the_second_padded(tmp_path: Path) -> None:
    _write_tokenizer(tmp_path)
    batch = _adapter(tmp_path, "BertModel", **_TEXT).prepare({})
    assert batch["input_ids"].shape[0] == 2
    assert batch["attention_mask"][0].all()
    assert not batch["attention_mask"][1].all()


def test_images_go_through_the_folders_processor(tmp_path: Path) -> None:
    settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": 40, "width": 48}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    vit = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 32}
    adapter = _adapter(tmp_path, "ViTForImageClassification", **vit)
    assert adapter.prepare({})["pixel_values"].shape == (1, 3, 40, 48)


def test_sound_goes_through_the_folders_extractor(tmp_path: Path) -> None:
    settings = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "sampling_rate": 8000,
        "do_normalize": True,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    values = _adapter(tmp_path, "Wav2Vec2ForCTC", **_TEXT).prepare({})["input_values"]
    assert values.shape == (1, 8000)
    assert np.isclose(values.std().item(), 1, atol=0.01)


def test_a_broken_processor_is_told_and_made_up_input_stands_in(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    adapter = _adapter(tmp_path, "LlamaForCausalLM", **_TEXT)
    assert adapter.prepare({})["input_ids"].shape == (1, 32)
    assert any(note.startswith("The folder's processor is not used:") for note in adapter.notes)
    assert "The input is made up from the config." in adapter.notes


def test_generation_follows_the_folders_own_config(tmp_path: Path) -> None:
    import torch

    (tmp_path / "generation_config.json").write_text(json.dumps({"do_sample": True, "top_k": 7}))
    model: Any = _adapter(tmp_path, "LlamaForCausalLM", **_TEXT).load(torch.device("cpu"), "auto")
    assert (model.generation_config.do_sample, model.generation_config.top_k) == (True, 7)


def test_inputs_have_the_weights_dtype(tmp_path: Path) -> None:
    config = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 32}
    adapter = _adapter(tmp_path, "ViTForImageClassification", **config, dtype="float16")
    pixels = adapter.prepare({})["pixel_values"]
    assert pixels.dtype is dtype_of(adapter.blueprint.config)
    assert str(pixels.dtype) == "torch.float16"
