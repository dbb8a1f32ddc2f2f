"""Sentence encoders in the layout of sentence-transformers, whose embeddings can be tested for meaning."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mpsprobe import toml
from mpsprobe.errors import TargetError
from mpsprobe.models.adapter import Batch, Outputs, Weights
from mpsprobe.models.transformers_auto import TransformersAdapter

#: A sentence, one with nearly the same meaning in other words, and one about something else. Any reader orders
#: them; counting common words does not, because the last ones share theirs with the wrong sentence. They are plain
#: enough for the smallest encoders, because a harder triple would test the model and not the machine.
TRIPLES = (
    (
        "A man is playing a guitar.",
        "Someone performs music on an instrument.",
        "The stock market fell today.",
    ),
    ("The cat sleeps on the sofa.", "A kitten is napping on the couch.", "He repaired his car's engine."),
    ("How do I reset my password?", "I cannot log in to my account.", "What goes into an apple pie?"),
    ("Heavy rain flooded the streets.", "A storm put the town under water.", "The chef baked fresh bread."),
    (
        "The bank approved my loan.",
        "The lender agreed to give me credit.",
        "We sat on the bank of the river.",
    ),
)


class SentenceEncoderAdapter(TransformersAdapter):
    """An adapter that embeds the sentences of `TRIPLES`.

    With stored weights, `judge` tests that each paraphrase is nearer to its sentence than the unrelated one.
    """

    meaning = f"In {len(TRIPLES)} of {len(TRIPLES)} triples the paraphrase is nearer than the other sentence."

    def sample(self) -> dict[str, Any]:
        return {"text": [sentence for triple in TRIPLES for sentence in triple]}

    def prepare(self, sample: dict[str, Any]) -> Batch:
        limit = self._read("sentence_bert_config.json").get("max_seq_length")
        return dict(
            self.tokenizer(
                sample["text"],
                padding=True,
                truncation=limit is not None,
                max_length=limit,
                return_tensors="pt",
            )
        )

    def infer(self, model: torch.nn.Module, batch: Batch) -> Outputs:
        hidden: Tensor = model(**batch).last_hidden_state
        if self._pooling == "cls":
            pooled = hidden[:, 0]
        else:
            weights = batch["attention_mask"][..., None].to(hidden.dtype)
            pooled = (hidden * weights).sum(1) / weights.sum(1)
        return {"embeddings": torch.nn.functional.normalize(pooled, dim=-1)}

    def judge(self, outputs: Outputs) -> list[str] | None:
        if self.weights is not Weights.STORED:
            return None
        problems = []
        for (anchor, near, far), rows in zip(TRIPLES, outputs["embeddings"].float().split(3), strict=True):
            to_near, to_far = (rows[1:] @ rows[0]).tolist()
            if not to_near > to_far:
                problems.append(
                    f"{anchor!r} is nearer to {far!r} ({to_far:.3f}) than to {near!r} ({to_near:.3f})."
                )
        return problems

    @cached_property
    def _pooling(self) -> str:
        """Return `"mean"` or `"cls"`, according to the repository's modules.

        Raises:
            TargetError: The modules use another pooling, which needs other code.
        """
        kinds = {entry["type"].rsplit(".", 1)[-1]: entry["path"] for entry in self._read("modules.json")}
        others = kinds.keys() - {"Transformer", "Pooling", "Normalize"}
        if others or "Pooling" not in kinds:
            raise TargetError(
                f"{self.snapshot / 'modules.json'}: has {', '.join(sorted(others)) or 'no Pooling'}.",
                "This adapter knows a transformer, pooling and normalisation.",
            )
        pooling = self._read(f"{kinds['Pooling']}/config.json")
        modes = [key for key, value in pooling.items() if key.startswith("pooling_mode_") and value is True]
        known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
        if len(modes) != 1 or modes[0] not in known:
            raise TargetError(
                f"{self.snapshot / kinds['Pooling']}: pools by {', '.join(modes) or 'nothing known'}.",
                "This adapter knows the mean of all tokens, and the first token.",
            )
        return known[modes[0]]

    def _read(self, name: str) -> Any:
        path = self.snapshot / name
        if not path.is_file():
            return {}
        return toml.read_json(path, TargetError, "Download it again.")
