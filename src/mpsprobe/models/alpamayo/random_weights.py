"""Fill the model with random weights quickly, and plant a trace in them.

An untrained model would never finish its reasoning, so there would be nothing to extract. A few rows of the
embedding and of the output head are therefore set so that each token of a fixed sentence is followed by the next
one. All other weights are random; every op and every shape is the same as with trained weights.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch

#: A sentence that a trained model might produce. No token occurs twice, because each has one successor.
TRACE = "Slow down because the lead vehicle is braking ahead"
#: The number of values that are drawn once and repeated, because drawing 11 billion takes minutes. It is prime, so that
#: no two rows of a matrix begin at the same one.
_DRAWN = 4_000_037
_DEVIATION = 0.02  # the standard deviation of Qwen3-VL's own initialisation
#: The norms of a planted row of the embedding and of the head; a random one has 1.3 (4096 values of standard deviation
#: 0.02). The sum that 36 random layers add to the residual stream has norm 900: so the next word gets a logit of 25,
#: and the best of the 155,000 others has 6.
_EMBEDDED, _HEAD = 128.0, 3.0


@torch.no_grad()
def fill(model: torch.nn.Module, seed: int) -> None:
    """Fill every parameter of two or more dimensions with normal values of standard deviation 0.02.

    The values are rounded to bfloat16, so they are the same on every device, and repeat after `_DRAWN`. Vectors
    (scales, biases) are left unchanged.
    """
    drawn = torch.randn(_DRAWN, generator=torch.Generator().manual_seed(seed)) * _DEVIATION
    drawn = drawn.to(torch.bfloat16)
    begin = 0
    for parameter in model.parameters():
        if parameter.dim() < 2:
            continue
        values, left = drawn.to(parameter), parameter.view(-1)
        while left.numel():
            part = values[begin : begin + left.numel()]
            left[: part.numel()] = part
            left = left[part.numel() :]
            begin = (begin + part.numel()) % _DRAWN


@torch.no_grad()
def plant(model: Any) -> int:
    """Set rows of the embedding and the head so that the model generates the trace, then starts a trajectory.

    Args:
        model: An `AlpamayoR1` with random weights.

    Returns:
        The number of tokens that the model then generates: the trace, two special tokens, and one more, for which
        its stopping rule waits.
    """
    tokenizer = model.tokenizer
    start, end, trajectory = tokenizer.convert_tokens_to_ids(
        ["<|cot_start|>", "<|cot_end|>", "<|traj_future_start|>"]
    )
    words = list(dict.fromkeys(tokenizer(TRACE, add_special_tokens=False)["input_ids"]))
    chain = [start, *words, end, trajectory]
    embedding = model.vlm.get_input_embeddings().weight
    head = model.vlm.get_output_embeddings().weight
    for token, following in itertools.pairwise(chain):
        signs = torch.randint(0, 2, (embedding.shape[1],), generator=torch.Generator().manual_seed(token))
        direction = ((2 * signs - 1) / embedding.shape[1] ** 0.5).to(embedding)
        embedding[token] = _EMBEDDED * direction
        head[following] = _HEAD * direction
    return len(chain)
