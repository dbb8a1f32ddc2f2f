"""The tokenizer that stands in for Qwen3-VL's."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, Tokenizer  # type: ignore[import-untyped]

from mpsprobe.models.alpamayo import processor


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return processor.build_tokenizer()


def test_it_has_the_size_of_qwens(tokenizer: Tokenizer) -> None:
    # tokenizer_config.json of Qwen3: 151,643 of text, 26 added; Alpamayo's <i0> follows as 151669
    assert tokenizer.get_vocab_size(with_added_tokens=False) == 151_643
    assert tokenizer.get_vocab_size() == 151_669
    assert len(tokenizer.get_vocab()) == 151_669


@pytest.mark.parametrize(
    ("token", "number"),
    [
        ("<|endoftext|>", 151643),
        ("<|im_start|>", 151644),
        ("<|im_end|>", 151645),
        ("<|vision_start|>", 151652),
        ("<|vision_end|>", 151653),
        ("<|image_pad|>", 151655),
        ("<|video_pad|>", 151656),
        ("</think>", 151668),
    ],
)
def test_special_tokens_have_qwens_ids(tokenizer: Tokenizer, token: str, number: int) -> None:
    assert tokenizer.token_to_id(token) == number


def test_each_word_of_a_prompt_is_one_token(tokenizer: Tokenizer) -> None:
    text = "You are a driving assistant that generates safe and accurate actions."
    assert len(tokenizer.encode(text).ids) == len(text.split()) + 1


@pytest.mark.parametrize(
    "text", ["Slow down because the lead vehicle is braking ahead", "Größe 12 µm\n\tτ", ""]
)
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_added_tokens_are_told_as_the_tokenizer_has_them(tokenizer: Tokenizer) -> None:
    told = {
        processor.TEXT_TOKENS + index: AddedToken(name, **form)
        for index, (name, form) in enumerate(processor.added_tokens().items())
    }
    assert tokenizer.get_added_tokens_decoder() == told
