"""The reasoning trace of a model that cannot reason: its form is forced, its words are sampled.

A trained model closes its trace by itself and then asks for a trajectory. Random weights never would, so
after a fixed number of words the closing tokens are forced. The words come from the model's own logits,
but they mean nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)


class TraceProcessor(LogitsProcessor):  # type: ignore[misc, unused-ignore]
    """Samples `length` words by temperature and nucleus, then forces `closing`.

    Sampling is done here, by adding Gumbel noise and taking the largest (which draws from the softmax), and
    not by `generate`: that draws from the device's own generator, so CPU, CUDA and MPS would say different
    words from the same seed. The noise comes from a CPU generator and is moved.

    Attributes:
        prompt_length: tokens before the first generated one.
        words: first and one past the last id that a trace may hold.
        length: words of the trace.
        closing: ids that follow the trace; the last one ends generation.
    """

    def __init__(
        self,
        prompt_length: int,
        words: tuple[int, int],
        length: int,
        closing: Sequence[int],
        temperature: float,
        top_p: float,
        seed: int,
    ) -> None:
        self.prompt_length = prompt_length
        self.words = words
        self.length = length
        self.closing = closing
        self._warpers = [TemperatureLogitsWarper(temperature), TopPLogitsWarper(top_p)]
        self._generator = torch.Generator(device="cpu").manual_seed(seed)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (batch, vocabulary) of which the largest is the next token."""
        step = input_ids.shape[1] - self.prompt_length
        allowed = torch.full_like(scores, -torch.inf)
        if step >= self.length:
            allowed[:, self.closing[min(step - self.length, len(self.closing) - 1)]] = 0
            return allowed
        first, end = self.words
        allowed[:, first:end] = scores[:, first:end]
        for warper in self._warpers:
            allowed = warper(input_ids, allowed)
        uniform = torch.rand(scores.shape, generator=self._generator).clamp_min(1e-9)
        gumbel = -(-uniform.log()).log()
        return allowed + gumbel.to(device=scores.device, dtype=scores.dtype)
