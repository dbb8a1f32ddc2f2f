"""A tokenizer with the size and the special tokens of Qwen3-VL's, for machines that cannot fetch that one.

It is a byte-level BPE over 151,643 text tokens, followed by Qwen's 26 added ones under their own ids. Its words are
those of the driving prompt and of a driving trace, each of them one token; any other text falls back to bytes. The
remaining ids are fillers to which no text is encoded. So lengths and special ids are right, but text ids are not.
Nothing imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpsprobe.models.tiny_drive.vocabulary import bytes_as_characters

if TYPE_CHECKING:
    from tokenizers import Tokenizer  # type: ignore[import-untyped, unused-ignore]

#: The number of text tokens in Qwen2's and Qwen3's vocabulary, which is the id of the first special token.
TEXT_TOKENS = 151_643
#: Qwen3's added tokens in the order of their ids (tokenizer_config.json of Qwen3-VL).
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
#: Those that are ordinary text to a decoder (`"special": false`).
_PLAIN = frozenset(SPECIAL_TOKENS[14:])

#: The pattern by which Qwen splits text before merging (tokenizer.json of Qwen2 and Qwen3).
_CUT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
#: Words of the prompt, of the chat template and of a trace, with the space before them as `_`. Those with a space come
#: first, because earlier merges take precedence: "us" of "user" would otherwise split "_because".
WORDS = """
    _are _a _driving _assistant _that _generates _safe _and _accurate _actions _the _chain _reasoning _of _process
    _then _output _future _trajectory _down _because _lead _vehicle _is _braking _ahead _keep _gap _to _it
    system user assistant You output -of -th ought Slow
"""


def _text_tokens() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return ids and merges of the text tokens. A word is built from the left, one character for each merge."""
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS.replace("_", "Ġ").split():
        token = word[0]
        for character in word[1:]:
            merges.setdefault((token, character))
            token += character
    tokens = [*bytes_as_characters(), *dict.fromkeys(left + right for left, right in merges)]
    # characters outside the byte alphabet, to which no text is encoded
    tokens += [f"\u2400{index}" for index in range(TEXT_TOKENS - len(tokens))]
    return {token: index for index, token in enumerate(tokens)}, list(merges)


def build_tokenizer() -> Tokenizer:
    """Build the tokenizer that is written to `tokenizer.json`."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    vocabulary, merges = _text_tokens()
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CUT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    for name, form in added_tokens().items():
        token = AddedToken(name, **form)
        (tokenizer.add_special_tokens if form["special"] else tokenizer.add_tokens)([token])
    return tokenizer


def added_tokens() -> dict[str, dict[str, bool]]:
    """Return the special tokens by id, from `TEXT_TOKENS` on, with the fields of an `AddedToken`."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {name: {**plain, "special": name not in _PLAIN} for name in SPECIAL_TOKENS}
