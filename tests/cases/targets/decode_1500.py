"""Half-precision decoding over 1500 keys (pytorch issue 174861): wrong values on 2.8 to 2.10."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

CONFIG = LlamaConfig(
    hidden_size=256,
    intermediate_size=256,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=128,
    vocab_size=100,
    max_position_embeddings=4096,
)


def load(device: Any, dtype: Any, weights: str = "stored") -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(CONFIG).to(device, dtype or torch.bfloat16).eval()


def sample() -> dict[str, Any]:
    return {"n": 1500}


def prepare(sample: dict[str, Any]) -> dict[str, Any]:
    return {"input_ids": 1 + torch.arange(sample["n"], device="cpu")[None] % 90}


def infer(model: Any, batch: Any) -> Any:
    return model.generate(batch["input_ids"], max_new_tokens=2, do_sample=False, pad_token_id=0)


def extract(raw: Any) -> dict[str, Any]:
    return {"ids": raw.cpu()}
