from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from mpsprobe.models.tiny_drive import repository as v


@pytest.mark.parametrize(
    "text",
    [
        "yield to the cyclist",
        " lane lane",
        "naïve 東京 🚗\n\ttab",
        "<|im_start|>user\n<i0><i767><|im_end|>",
        "",
    ],
)
def test_any_text_survives(text: str) -> None:
    tokenizer = v.build_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_each_word_is_one_token() -> None:
    tokenizer = v.build_tokenizer()
    for word, wanted in zip(v.WORDS, v.WORD_IDS, strict=True):
        assert tokenizer.encode(f" {word}").ids == [wanted], word
    slow = v.WORD_IDS[v.WORDS.index("slow")]
    assert tokenizer.encode(" slowly").ids == [slow, *tokenizer.encode("ly").ids]


def test_special_tokens_have_the_ids_of_the_config() -> None:
    tokenizer = v.build_tokenizer()
    for token, wanted in v.SPECIAL_IDS.items():
        assert tokenizer.encode(token).ids == [wanted]
    assert tokenizer.token_to_id("<i0>") == v.TRAJECTORY_START
    last = v.FUTURE_BINS + v.HISTORY_BINS - 1
    assert tokenizer.token_to_id(f"<i{last}>") == v.TRAJECTORY_START + last
    assert tokenizer.get_vocab_size() == v.TRAJECTORY_START + last + 1 <= v.VOCAB_SIZE


def test_the_saved_tokenizer_is_the_same(snapshot: Path) -> None:
    loaded = PreTrainedTokenizerFast.from_pretrained(snapshot)
    text = " follow the road<|cot_end|> é"
    assert loaded(text)["input_ids"] == v.build_tokenizer().encode(text).ids
    assert loaded.eos_token_id == v.SPECIAL_IDS["<|im_end|>"]
