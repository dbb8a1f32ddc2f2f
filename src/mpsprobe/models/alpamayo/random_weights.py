"""Random weights for the model, quickly, and a trace planted in them.

Untrained, the model would never close its reasoning, and there would be nothing to extract. So a few rows of
the embedding and of the output head are set such that each token of a fixed sentence is followed by the next
one. All other weights are random; every op and every shape is as it is with trained weights.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch

#: What a trained model might say. No token of it comes twice: each is followed by one other.
TRACE = "Slow down because the lead vehicle is braking ahead"
#: Values drawn once, and repeated: drawing each of 11 billion takes minutes. A prime, so that no two rows of a
#: matrix begin at the same one.
_DRAWN = 4_000_037
_DEVIATION = 0.02  # of Qwen3-VL's own initialisation
#: Lengths of a planted row of the embedding and of the head, against 1.3 of a random one (4096 values of deviation
#: 0.02). What 36 random layers add to the residual stream is 900 long: this leaves the next word a logit of some 25,
#: where the best of the 155,000 others has 6.
_EMBEDDED, _HEAD = 128.0, 3.0


@torch.no_grad()
def fill(model: torch.nn.Module, seed: int) -> None:
    """Give every matrix random values, the same on every device and in every dtype.

    Vectors (scales, biases) are left as they are.
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
    """Plant the trace, and what follows it: the end of the reasoning, then the trajectory.

    Args:
        model: an `AlpamayoR1` with random weights.

    Returns:
        How many tokens the model generates now: the trace, two special tokens, and the one after the last,
        which its stopping rule waits for.
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
