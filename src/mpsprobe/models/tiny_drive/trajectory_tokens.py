"""Trajectories as discrete tokens: steps of the past, actions of the future."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class UniformBins:
    """Numbers in [-limit, limit] as indices of `count` equal bins; what lies outside goes to the end bins."""

    limit: float
    count: int

    def encode(self, values: Tensor) -> Tensor:
        """Bin indices (int64), of the shape of `values`."""
        scaled = (values.float() + self.limit) * (self.count / (2 * self.limit))
        return scaled.floor().clamp(0, self.count - 1).to(torch.int64)

    def decode(self, indices: Tensor) -> Tensor:
        """Centres of the bins, float32."""
        return (indices.float() + 0.5) * (2 * self.limit / self.count) - self.limit


@dataclass(frozen=True)
class DeltaTokenizer:
    """The ego history as the steps between its points: T points give 3 T tokens, the first step is zero.

    Attributes:
        bins: of the steps, metres.
        offset: id of the first bin's token.
    """

    bins: UniformBins
    offset: int

    def encode(self, xyz: Tensor) -> Tensor:
        """Token ids (..., 3 T), point by point, of a history (..., T, 3) in metres."""
        steps = torch.cat([torch.zeros_like(xyz[..., :1, :]), xyz.diff(dim=-2)], dim=-2)
        return (self.bins.encode(steps) + self.offset).flatten(-2)

    def decode(self, tokens: Tensor) -> Tensor:
        """The history (..., T, 3) of token ids (..., 3 T), placed so that it ends at the origin."""
        steps = self.bins.decode(tokens - self.offset).reshape(*tokens.shape[:-1], -1, 3)
        xyz = steps.cumsum(-2)
        return xyz - xyz[..., -1:, :]


@dataclass(frozen=True)
class ActionTokenizer:
    """Future actions, normalised, as tokens: T waypoints give 2 T tokens (acceleration, curvature, ...)."""

    bins: UniformBins
    offset: int

    def encode(self, actions: Tensor) -> Tensor:
        """Token ids (..., 2 T) of actions (..., T, 2)."""
        return (self.bins.encode(actions) + self.offset).flatten(-2)

    def decode(self, tokens: Tensor) -> Tensor:
        """Actions (..., T, 2) of token ids (..., 2 T)."""
        return self.bins.decode(tokens - self.offset).reshape(*tokens.shape[:-1], -1, 2)
