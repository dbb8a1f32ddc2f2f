"""Fine-tune Whisper: one optimisation step of the usual loop, encoder frozen.

    mpsprobe predict examples/training/whisper.py --train full --mac m2-24 --samples 5000
    mpsprobe run examples/training/whisper.py --train full --device emulated --torch 2.8

The weights are random and small. For yours: WhisperForConditionalGeneration.from_pretrained("openai/whisper-small").
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperForConditionalGeneration

CONFIG = WhisperConfig(
    vocab_size=1000, d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
    decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128, max_source_positions=150,
    max_target_positions=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3,
    dropout=0.0, suppress_tokens=None, begin_suppress_tokens=None,
)  # fmt: skip


def load(device: torch.device, dtype: torch.dtype | None) -> nn.Module:
    """Make the model, and freeze its encoder, as fine-tuning on little speech does."""
    torch.manual_seed(0)
    model: Any = WhisperForConditionalGeneration(CONFIG)
    model.model.encoder.requires_grad_(False)
    placed: nn.Module = model.to(device=device, dtype=dtype)
    return placed


def sample() -> dict[str, Tensor]:
    """Return two clips of 3 s as log-mel features, and their texts; -100 marks places that do not count."""
    seed = torch.Generator().manual_seed(0)
    labels = torch.randint(4, 1000, (2, 24), generator=seed)
    labels[1, 16:] = -100
    return {"input_features": torch.randn(2, 80, 300, generator=seed), "labels": labels}


def infer(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the logits of each place of the text."""
    logits: Tensor = model(**batch).logits
    return logits


def extract(raw: Tensor) -> dict[str, Tensor]:
    """Return the result on the CPU."""
    return {"logits": raw.float().cpu()}


def train_step(model: nn.Module, batch: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> Tensor:
    """Take one step, and return its loss."""
    loss: Tensor = model(**batch).loss
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_([one for one in model.parameters() if one.requires_grad], 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss
