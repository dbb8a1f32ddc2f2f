"""The action expert: a small Qwen3-style decoder that turns noise into actions, by flow matching.

A velocity field v(x, t) is integrated from noise (t = 0) to actions (t = 1). The decoder reads one token a
waypoint; its tokens see each other both ways and the VLM's keys and values of the same layer.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel

#: Frequencies a scalar is seen at: 2 pi 2^0 ... 2 pi 2^(n-1), over the scale of normalised actions.
_FREQUENCIES = 8
_SCALE = 16.0


class ActionInProjection(nn.Module):
    """Noisy actions and the flow's time as decoder inputs: Fourier features, then two layers."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Linear(3 * 2 * _FREQUENCIES, hidden)
        self.outer = nn.Linear(hidden, hidden)

    def forward(self, actions: Tensor, time: Tensor) -> Tensor:
        """(B, T, 2) and (B,) float32 to (B, T, hidden) in the weights' dtype."""
        values = torch.cat([actions, time[:, None, None].expand(*actions.shape[:2], 1) * _SCALE], dim=-1)
        octaves = torch.arange(_FREQUENCIES, device=actions.device, dtype=torch.float32)
        phases = (values / _SCALE)[..., None] * (2 * math.pi / _FREQUENCIES) * torch.exp2(octaves)
        features = torch.cat([phases.sin(), phases.cos()], dim=-1).flatten(-2)
        hidden: Tensor = self.outer(nn.functional.silu(self.inner(features.to(self.inner.weight.dtype))))
        return hidden


def share_prefix(cache: DynamicCache, repeats: int = 1) -> DynamicCache:
    """A cache that begins with the tensors of `cache` and grows without touching it.

    Layers replace their tensors when they grow (`torch.cat`), so copies of the layer objects suffice; the
    keys and values are shared, unless each row is repeated.
    """
    view = copy.copy(cache)
    view.layers = [copy.copy(layer) for layer in cache.layers]
    if repeats > 1:
        view.batch_repeat_interleave(repeats)
    return view


def velocity(
    decoder: Qwen3VLTextModel,
    embeddings: Tensor,
    prefix: DynamicCache,
    prefix_mask: Tensor,
    first_position: Tensor,
) -> Tensor:
    """Last hidden states (B, T, hidden) of `embeddings` after the cached `prefix`.

    Args:
        decoder: the expert's layers.
        embeddings: (B, T, hidden).
        prefix: the VLM's keys and values, B rows.
        prefix_mask: (B, P), 0 where the prefix is padding.
        first_position: (B,), rotary position of the first waypoint.
    """
    batch, count = embeddings.shape[:2]
    # additive and four-dimensional: transformers then leaves it as it is, so waypoints see both ways
    blocked = (1 - prefix_mask[:, None, None, :].to(embeddings.dtype)) * torch.finfo(embeddings.dtype).min
    mask = nn.functional.pad(blocked.expand(batch, 1, count, -1), (0, count))
    positions = first_position[:, None] + torch.arange(count, device=embeddings.device)
    output: Tensor = decoder(
        inputs_embeds=embeddings,
        attention_mask=mask,
        position_ids=positions.expand(3, -1, -1),
        past_key_values=share_prefix(prefix),
        use_cache=True,
    ).last_hidden_state
    return output


def integrate(field: Callable[[Tensor, Tensor], Tensor], start: Tensor, steps: int) -> Tensor:
    """Euler's method: `start` (B, ...) follows `field(x, t)`, t (B,), from t = 0 to 1 in `steps` steps."""
    state = start
    for step in range(steps):
        time = torch.full((start.shape[0],), step / steps, device=start.device, dtype=torch.float32)
        state = state + field(state, time) / steps
    return state
