"""A training step as a target's inference: against PyTorch's own optimisers, on a CPU."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mpsprobe.errors import UsageError
from mpsprobe.models import training
from mpsprobe.models.adapter import Weights
from mpsprobe.models.targets import resolve
from mpsprobe.models.weightless import config_only
from mpsprobe.options import Settings

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "dtype": "float32",
}
CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    return tmp_path


def adapter_of(folder: Path, weights: Weights = Weights.RANDOM, **options: Any) -> training.TrainingAdapter:
    ref = resolve(
        Settings(model=str(folder), random_init=True, train=options.pop("train", "full"), **options)
    )
    adapter, _ = config_only.make(ref, folder, weights)
    assert isinstance(adapter, training.TrainingAdapter)
    return adapter


def step(adapter: training.TrainingAdapter, model: nn.Module) -> dict[str, torch.Tensor]:
    with adapter.grad_mode:
        return adapter.extract(adapter.infer(model, adapter.prepare(adapter.sample())))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "adafactor"])
def test_a_step_is_that_of_pytorchs_optimizer(folder: Path, optimizer: str) -> None:
    adapter = adapter_of(folder, optimizer=optimizer)
    model = adapter.load(CPU, "float32")
    expected = copy.deepcopy(model)
    batch = adapter.prepare(adapter.sample())
    loss = expected(**batch, labels=batch["input_ids"]).loss
    loss.backward()
    norm = nn.utils.clip_grad_norm_(expected.parameters(), 1.0)
    made = {
        "adamw": lambda: torch.optim.AdamW(expected.parameters(), lr=5e-5),
        "sgd": lambda: torch.optim.SGD(expected.parameters(), lr=5e-5, momentum=0.9),
        "adafactor": lambda: torch.optim.Adafactor(expected.parameters(), lr=5e-5),
    }[optimizer]()
    made.step()
    found = step(adapter, model)
    torch.testing.assert_close(found["loss"], loss.detach())
    torch.testing.assert_close(found["gradient_norm"], norm)
    if optimizer == "sgd":  # the others count their steps, and this one has taken one with no gradient
        for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs)
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=0)


def test_making_the_states_leaves_the_weights(folder: Path) -> None:
    plain, _ = config_only.make(
        resolve(Settings(model=str(folder), random_init=True)), folder, Weights.RANDOM
    )
    trained = adapter_of(folder).load(CPU, "float32")
    for ours, theirs in zip(trained.parameters(), plain.load(CPU, "float32").parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_making_the_states_leaves_float16_finite(folder: Path) -> None:
    """AdamW's epsilon of 1e-8 is zero in float16, and a step without gradients would divide zero by it."""
    model = adapter_of(folder).load(CPU, "float16")
    assert all(one.dtype is torch.float16 and bool(one.isfinite().all()) for one in model.parameters())


def test_the_loss_falls_on_a_repeated_batch(folder: Path) -> None:
    adapter = adapter_of(folder)
    model = adapter.load(CPU, "float32")
    first, second = step(adapter, model), step(adapter, model)
    assert adapter.judge_repeat(first, second)[0]
    assert not adapter.judge_repeat(second, first)[0]


def test_a_loss_that_is_not_finite_is_named(folder: Path) -> None:
    adapter = adapter_of(folder)
    found = {"loss": torch.tensor(math.nan), "gradient_norm": torch.tensor(1.0)}
    assert adapter.judge(found) == ["The loss is not finite."]


def test_lora_moves_only_its_own_matrices(folder: Path) -> None:
    pytest.importorskip("peft")
    adapter = adapter_of(folder, train="lora")
    model = adapter.load(CPU, "float32")
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    step(adapter, model)
    moved = {name for name, one in model.named_parameters() if not torch.equal(one, before[name])}
    assert moved
    assert all("lora_" in name for name in moved)


class Attending(nn.Module):
    """Attention of PyTorch, which reads the weight of its output projection and never calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.last = nn.Linear(8, 2)
        self.inner = nn.ModuleDict({"last": nn.Tanh()})  # a path that ends as a linear layer's does

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.inner["last"](self.attention(x, x, x)[0]))


MAMBA = {
    "architectures": ["MambaForCausalLM"],
    "model_type": "mamba",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "state_size": 4,
    "vocab_size": 100,
    "time_step_rank": 4,
}


@pytest.mark.parametrize("kind", ["attention", "mamba"])
def test_every_lora_matrix_is_reached(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("peft")
    if kind == "mamba":
        (tmp_path / "config.json").write_text(json.dumps(MAMBA))
        adapter = adapter_of(tmp_path, train="lora")
    else:
        config = tmp_path / "attending.json"
        config.write_text(json.dumps({"mpsprobe": {"inputs": {"x": {"shape": [2, 3, 8]}}}}))
        settings = Settings(model=f"{__name__}:Attending", config=str(config), random_init=True, train="lora")
        made, _ = config_only.make(resolve(settings), tmp_path, Weights.RANDOM)
        assert isinstance(made, training.TrainingAdapter)
        adapter = made
    model = adapter.load(CPU, "float32")
    with adapter.grad_mode:
        adapter.backward(model, adapter.prepare(adapter.sample()))
    without = [name for name, one in model.named_parameters() if one.requires_grad and one.grad is None]
    assert training.trained_parameters(model)
    assert not without


def test_lora_without_a_linear_layer_is_refused() -> None:
    pytest.importorskip("peft")
    with pytest.raises(UsageError, match="no linear layer"):
        training._with_lora(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))


SPEECH = {
    "architectures": ["Wav2Vec2ForCTC"],
    "model_type": "wav2vec2",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "conv_dim": [16, 16],
    "conv_kernel": [10, 8],
    "conv_stride": [8, 8],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": 16,
}
CLASSIFIER = {
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 100,
}
WHISPER = {
    "architectures": ["WhisperForConditionalGeneration"],
    "model_type": "whisper",
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "vocab_size": 100,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 3,
}


@pytest.mark.parametrize(
    ("config", "backward"),
    [(SPEECH, "CtcLossBackward"), (CLASSIFIER, "NllLossBackward"), (WHISPER, "NllLossBackward")],
)
def test_the_loss_is_the_classs_own(tmp_path: Path, config: dict[str, Any], backward: str) -> None:
    """A speech recogniser is trained by CTC and a classifier by cross entropy, and MPS treats those ops differently."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    adapter = adapter_of(tmp_path)
    model = adapter.load(CPU, "float32")
    with torch.enable_grad():
        pending: list[Any] = [adapter._loss(model, adapter.prepare(adapter.sample())).grad_fn]
    names = set()
    while pending:
        node = pending.pop()
        if node is not None and node not in names:
            names.add(node)
            pending += [one for one, _ in node.next_functions]
    assert any(node.name().startswith(backward) for node in names)
    assert any("The loss is the model's own" in note for note in adapter.notes)


def test_accumulated_gradients_are_those_of_one_batch(folder: Path) -> None:
    once, often = adapter_of(folder), adapter_of(folder, accumulate=3)
    first, second = (step(adapter, adapter.load(CPU, "float32")) for adapter in (once, often))
    torch.testing.assert_close(first["gradient_norm"], second["gradient_norm"])


@pytest.mark.parametrize(
    "option", [{"optimizer": "sgd"}, {"accumulate": 2}, {"gradient_checkpointing": True}]
)
def test_options_of_training_go_with_training(option: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="goes with --train"):
        Settings(**option)
