"""Token ids for a text encoder whose folder has no tokenizer."""

from __future__ import annotations

from typing import Any

import torch

#: Ids of a short prompt where it is not padded.
_WORDS = 8


class MadeUpTokenizer:
    """Takes a tokenizer's place in a pipeline: gives ids that the text encoder knows, whatever the text.

    Attributes:
        model_max_length: ids that the encoder has positions for (512 where it has no limit, as T5).
        added_tokens_encoder: pipelines look up textual inversions here: there are none.
    """

    def __init__(self, config: Any) -> None:
        text = getattr(config, "text_config", config)
        self._vocabulary = int(text.vocab_size)
        self._end = _id(text, "eos_token_id", self._vocabulary - 1)
        self._pad = _id(text, "pad_token_id", self._end)
        self.model_max_length = int(getattr(text, "max_position_embeddings", None) or 512)
        self.added_tokens_encoder: dict[str, int] = {}

    def __call__(
        self,
        text: str | list[str],
        padding: Any = False,
        max_length: int | None = None,
        **options: Any,
    ) -> Any:
        """`input_ids` and `attention_mask`, int64 `(texts, ids)`."""
        from transformers import BatchEncoding

        del options
        length = (max_length or self.model_max_length) if padding == "max_length" else _WORDS
        words = min(_WORDS, length) - 1
        first = self._vocabulary // 4
        ids = [first + place % max(1, self._vocabulary // 2) for place in range(words)] + [self._end]
        ids += [self._pad] * (length - len(ids))
        mask = [1] * (words + 1) + [0] * (length - words - 1)
        rows = 1 if isinstance(text, str) else len(text)
        return BatchEncoding(
            {"input_ids": torch.tensor([ids] * rows), "attention_mask": torch.tensor([mask] * rows)}
        )

    @staticmethod
    def tokenize(text: str) -> list[str]:
        """Words, for pipelines that look for placeholders of textual inversion among them."""
        return text.split()


def _id(config: Any, name: str, default: int) -> int:
    value = getattr(config, name, None)
    return value if isinstance(value, int) and 0 <= value < int(config.vocab_size) else default
