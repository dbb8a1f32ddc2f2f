import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mpsprobe.errors import TargetError
from mpsprobe.models.transformers_auto import load_pretrained

_hf: Any = importlib.import_module("transformers")  # its annotations are partial
LlamaConfig, LlamaForCausalLM = _hf.LlamaConfig, _hf.LlamaForCausalLM
CPU = torch.device("cpu")
CONFIG = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    LlamaForCausalLM(LlamaConfig(**CONFIG)).to(torch.float16).save_pretrained(tmp_path)
    return tmp_path


def edit(folder: Path, name: str, tensor: torch.Tensor | None) -> None:
    file = folder / "model.safetensors"
    tensors = {key: value.clone() for key, value in load_file(file).items()}
    if tensor is None:
        del tensors[name]
    else:
        tensors[name] = tensor
    save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("auto", torch.float16), ("bfloat16", torch.bfloat16), ("float32", torch.float32)],
)
def test_dtype(saved: Path, dtype: str, expected: torch.dtype) -> None:
    model = load_pretrained(LlamaForCausalLM, saved, CPU, dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {expected}
    assert not model.training
    stored = load_file(saved / "model.safetensors")
    for name, value in model.state_dict().items():
        assert torch.equal(value, stored[name].to(expected)), name


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention(saved: Path, attention: str) -> None:
    model = load_pretrained(LlamaForCausalLM, saved, CPU, "auto", attention)
    assert model.config._attn_implementation == attention  # type: ignore[union-attr]


def test_missing_weights_are_not_made_up(saved: Path) -> None:
    edit(saved, "model.layers.0.mlp.up_proj.weight", None)
    with pytest.raises(
        TargetError, match=r"1 weights of LlamaForCausalLM are missing, first model\.layers\.0"
    ):
        load_pretrained(LlamaForCausalLM, saved, CPU, "auto")


def test_weights_that_are_not_used_may_be_missing(saved: Path) -> None:
    edit(saved, "lm_head.weight", None)
    load_pretrained(LlamaForCausalLM, saved, CPU, "auto", unused=("lm_head.",))


def test_weights_of_another_shape(saved: Path) -> None:
    edit(saved, "model.norm.weight", torch.ones(7, dtype=torch.float16))
    with pytest.raises(RuntimeError):
        load_pretrained(LlamaForCausalLM, saved, CPU, "auto")
