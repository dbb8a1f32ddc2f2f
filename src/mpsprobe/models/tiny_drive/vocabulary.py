"""The target's vocabulary: bytes, a few driving words, Qwen's special tokens and the trajectory tokens.

It is a byte-level BPE like Qwen's, with merges that are written down instead of learnt: each word (with the space
before it) is built from the left, one character for each merge, so it always becomes one token, and any other text
falls back to bytes. Nothing imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer  # type: ignore[import-untyped, unused-ignore]

#: The number of bins of the future tokenizer (acceleration and curvature), whose tokens come first.
FUTURE_BINS = 512
#: The number of bins of the history tokenizer (steps in metres).
HISTORY_BINS = 256

_WORDS = """
    accelerate adapt ahead and approach at away bicycle blocked brake bus car caution change clear close
    construction continue crossing curve cyclist decelerate distance due ego entering follow for from gap
    give go green head hold in intersection into junction keep lane lead left light merge moving narrow
    nudge occluded of oncoming overtake parked pass path pedestrian queue ramp red right road roundabout
    sign signal slow slowing speed stop straight the to traffic truck turn van vehicle wait way with yield
"""
WORDS = tuple(_WORDS.split())

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|traj_history_start|>",
    "<|traj_history|>",
    "<|traj_history_end|>",
    "<|traj_future_start|>",
    "<|traj_future|>",
    "<|traj_future_end|>",
    "<|cot_start|>",
    "<|cot_end|>",
    "<|meta_action_start|>",
    "<|meta_action_end|>",
    "<|answer_start|>",
    "<|answer_end|>",
)

_SPACE = "Ġ"  # how byte-level BPE writes the space


def bytes_as_characters() -> list[str]:
    """Return GPT-2's printable character for each byte, in byte order, as the ByteLevel pre-tokenizer maps it."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    stand_ins = dict(zip((b for b in range(256) if b not in printable), range(256, 512), strict=False))
    return [chr(stand_ins.get(byte, byte)) for byte in range(256)]


def _text_tokens() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return ids and merges of the text tokens: bytes, then unfinished words, then the words in one block."""
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS:
        token = _SPACE
        for character in word:
            merges.setdefault((token, character))
            token += character
    words = [_SPACE + word for word in WORDS]
    unfinished = [left + right for left, right in merges if left + right not in set(words)]
    return {t: i for i, t in enumerate([*bytes_as_characters(), *unfinished, *words])}, list(merges)


_TEXT, _MERGES = _text_tokens()
#: The ids of the whole words, of which a trace consists.
WORD_IDS = range(len(_TEXT) - len(WORDS), len(_TEXT))
#: The id of each special token.
SPECIAL_IDS = {token: len(_TEXT) + i for i, token in enumerate(SPECIAL_TOKENS)}
#: The id of `<i0>`, the first trajectory token.
TRAJECTORY_START = len(_TEXT) + len(SPECIAL_TOKENS)
#: The size of the vocabulary, rounded up to a multiple of 64 as models do for the benefit of matrix kernels.
VOCAB_SIZE = -(-(TRAJECTORY_START + FUTURE_BINS + HISTORY_BINS) // 64) * 64


def build_tokenizer() -> Tokenizer:
    """Build the tokenizer that is written to `tokenizer.json`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocab=_TEXT, merges=_MERGES))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = (*SPECIAL_TOKENS, *(f"<i{i}>" for i in range(FUTURE_BINS + HISTORY_BINS)))
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return tokenizer
