"""A tokenizer with the size and the special tokens of Qwen3-VL's, for machines that cannot have that one.

Byte-level BPE over 151,643 text tokens, then Qwen's 26 added ones under their own ids. Its words are those of
the driving prompt and of a driving trace, each one token; any other text falls back to bytes. The ids that no
word takes are fillers that no text is encoded to. So lengths and special ids are right, and text ids are not.
Read without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpsprobe.models.tiny_drive.vocabulary import bytes_as_characters

if TYPE_CHECKING:
    from tokenizers import Tokenizer  # type: ignore[import-untyped, unused-ignore]

#: Tokens of text in Qwen2's and Qwen3's vocabulary: the id of the first special token.
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
#: The last of them are ordinary text to a decoder (`"special": false`).
_PLAIN = frozenset(SPECIAL_TOKENS[14:])

#: How Qwen cuts text before merging (tokenizer.json of Qwen2 and Qwen3).
_CUT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
#: Words of the prompt, of the chat form, and of a trace, with the space before them as `_`. Those with a space come
#: first: the earlier merge goes before the later, so "us" of "user" would cut "_because" in two.
WORDS = """
    _are _a _driving _assistant _that _generates _safe _and _accurate _actions _the _chain _reasoning _of _process
    _then _output _future _trajectory _down _because _lead _vehicle _is _braking _ahead _keep _gap _to _it
    system user assistant You output -of -th ought Slow
"""


def _text_tokens() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return ids and merges of the text tokens. A word is built from the left, one character a merge."""
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS.replace("_", "Ġ").split():
        token = word[0]
        for character in word[1:]:
            merges.setdefault((token, character))
            token += character
    tokens = [*bytes_as_characters(), *dict.fromkeys(left + right for left, right in merges)]
    # characters outside the byte alphabet: no text becomes one of these
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
