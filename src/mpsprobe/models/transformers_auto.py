"""Run any transformers model of a local snapshot on text or an image, by the purpose of its class.

The class is the one that config.json names; nothing of the repository's own code runs. The input of a model, and
what counts as its inference, follow from the table of transformers' Auto classes that lists the class.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mpsprobe.errors import TargetError, docs, first_line
from mpsprobe.models.adapter import Adapter, Batch, Outputs, Weights
from mpsprobe.models.hub.snapshot import architecture, read_config
from mpsprobe.models.profile import Profile
from mpsprobe.models.weightless import from_config


def load_pretrained(
    cls: Any,
    snapshot: Path,
    device: torch.device,
    dtype: str,
    attention: str = "",
    unused: tuple[str, ...] = (),
    weights: Weights = Weights.STORED,
) -> torch.nn.Module:
    """Load `cls.from_pretrained(snapshot)` in eval mode on `device`; without stored weights, build it from its config.

    Weights are read on the CPU, then moved one parameter at a time. safetensors maps the file instead of copying it
    (unless `dtype` is not the stored one), so on unified memory the peak is one copy of the model. `device_map`
    would need accelerate, which transformers does not require.

    Args:
        cls: A model class of transformers.
        snapshot: The folder with config and weights.
        device: The device to load the model to.
        dtype: The dtype of the weights; `"auto"` for the stored one.
        attention: The attn_implementation; `""` for the default of the class.
        unused: Prefixes of the names of weights that may be missing, because the caller does not use their
            results.
        weights: The source of the weights: stored, random, or none.

    Raises:
        TargetError: Weights are missing, where transformers would only warn and use random ones; or, without stored
            weights, the class cannot be built.
        RuntimeError: Weights have another shape than in the class; the message is transformers' own.
    """
    if weights is not Weights.STORED:
        config = cls.config_class.from_pretrained(snapshot, local_files_only=True)
        return from_config.build(cls, config, device, dtype, attention, initialise=weights is Weights.RANDOM)
    model, info = cls.from_pretrained(
        snapshot,
        dtype=dtype if dtype == "auto" else getattr(torch, dtype),
        local_files_only=True,
        use_safetensors=True,  # pickles are never read
        output_loading_info=True,
        **({"attn_implementation": attention} if attention else {}),
    )
    missing = sorted(name for name in info["missing_keys"] if not name.startswith(unused))
    if missing:
        raise TargetError(
            f"{snapshot}: {len(missing)} weights of {type(model).__name__} are missing, first {missing[0]}.",
            "The weights are not of this class: check architectures in config.json.",
        )
    moved: torch.nn.Module = model.to(device).eval()
    return moved


#: A text that any language model can continue, and that has a word to mask.
_TEXT = "The capital of France is Paris, and the capital of Italy is"
_MASKED = "Paris is the {mask} of France."
_IMAGE_SIZE = 224
#: A pooler is often missing from checkpoints of plain encoders. Its output is not used.
_UNUSED = ("pooler.", "bert.pooler.", "roberta.pooler.", "vit.pooler.")


@dataclass(frozen=True)
class Task:
    """How models of one kind get their input and run their inference.

    Attributes:
        name: The name for messages.
        auto: What the name of transformers' table of the classes has between `MODEL_` and `MAPPING_NAMES`:
            `"FOR_CAUSAL_LM_"`.
        image: Whether it takes an image; otherwise it takes text.
        infer: A function of adapter, model and batch that returns named results on the model's device.
    """

    name: str
    auto: str
    image: bool
    infer: Callable[[TransformersAdapter, Any, Batch], Outputs]


class TransformersAdapter(Adapter):
    """An adapter that loads the class of config.json and runs it by its task.

    `profile.sample` may hold `text`; `profile.inference` may hold `max_new_tokens`.
    """

    def __init__(self, snapshot: Path, profile: Profile) -> None:
        super().__init__(snapshot, profile)
        self.config = read_config(snapshot)
        self.architecture = architecture(self.config) or ""
        # Importing the class takes seconds. It is done here, so that `load` times only the loading.
        with contextlib.suppress(Exception):  # `load` raises it again and reports it
            self._model_class()

    def load(self, device: torch.device, dtype: str) -> torch.nn.Module:
        attention = self.profile.attention
        return load_pretrained(
            self._model_class(), self.snapshot, device, dtype, attention, _UNUSED, self.weights
        )

    def sample(self) -> dict[str, Any]:
        """Return `image` (224, 224, 3) uint8, or `text`: the profile's, a built-in one, or one with a word to mask."""
        if self.task.image:
            ramp = torch.linspace(0, 255, _IMAGE_SIZE)
            down, across = torch.meshgrid(ramp, ramp, indexing="ij")
            return {"image": torch.stack([down, across, (down - across).abs()], dim=-1).to(torch.uint8)}
        text = self.profile.sample.get("text") or _TEXT
        if self.task is _MASKED_LM:
            text = _MASKED.format(mask=self.tokenizer.mask_token)
        return {"text": text}

    def prepare(self, sample: dict[str, Any]) -> Batch:
        if self.task.image:
            return dict(self.image_processor(images=sample["image"].numpy(), return_tensors="pt"))
        text = sample["text"]
        if self.task is _CAUSAL_LM and self.tokenizer.chat_template:
            text = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
            )
            return dict(self.tokenizer(text, return_tensors="pt", add_special_tokens=False))
        return dict(self.tokenizer(text, return_tensors="pt"))

    def forward(self, model: torch.nn.Module, batch: Batch) -> Outputs:
        """Return those of `logits` and `last_hidden_state` that the model's output has, on the CPU."""
        config: Any = model.config
        batch = _accepted(model, batch)
        if config.is_encoder_decoder:
            start = torch.full_like(batch["input_ids"][:, :1], config.decoder_start_token_id)
            batch = {**batch, "decoder_input_ids": start}
        output = model(**batch)
        named = {name: getattr(output, name, None) for name in ("logits", "last_hidden_state")}
        return {name: value.cpu() for name, value in named.items() if isinstance(value, Tensor)}

    def infer(self, model: torch.nn.Module, batch: Batch) -> Outputs:
        return self.task.infer(self, model, _accepted(model, batch))

    def extract(self, raw: Outputs) -> Outputs:
        return {name: value.cpu() if isinstance(value, Tensor) else value for name, value in raw.items()}

    @cached_property
    def task(self) -> Task:
        """Return the task whose table lists the class, which determines its input and inference.

        Raises:
            TargetError: No task fits the class; the target needs a target.py.
        """
        found = next((task for task in _TASKS if self.architecture in _classes(task)), None)
        if found is _ANY_TEXT_MODEL and not self._takes_only_text():
            found = None
        if found is None:
            raise TargetError(
                f"{self.snapshot}: no known task for {self.architecture or 'a config that names no class'}.",
                f"Describe it in a target.py of your own: {docs('targets.md')}",
            )
        return found

    @cached_property
    def tokenizer(self) -> Any:
        """Return the repository's own tokenizer.

        Raises:
            TargetError: It cannot be loaded.
        """
        from transformers import AutoTokenizer

        return self._processor(AutoTokenizer, "tokenizer")

    @cached_property
    def image_processor(self) -> Any:
        """Return the repository's own image processor, in the variant that needs no torchvision.

        Raises:
            TargetError: It cannot be loaded.
        """
        from transformers import AutoImageProcessor

        slow = {"backend": "pil"} if _takes_backend() else {"use_fast": False}
        return self._processor(AutoImageProcessor, "image processor", **slow)

    def _processor(self, auto_class: Any, kind: str, **options: Any) -> Any:
        try:
            return auto_class.from_pretrained(
                self.snapshot, local_files_only=True, trust_remote_code=False, **options
            )
        except (OSError, ValueError, ImportError, KeyError) as problem:
            reason = first_line(problem)
            raise TargetError(
                f"{self.snapshot}: its {kind} cannot be loaded: {reason}", "Download the whole repository."
            ) from problem

    def _takes_only_text(self) -> bool:
        """Return whether the snapshot has a tokenizer and no image processor, and its model no separate encoder."""
        files = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json")
        return (
            any((self.snapshot / name).is_file() for name in files)
            and not (self.snapshot / "preprocessor_config.json").is_file()
            and not self.config.get("is_encoder_decoder", False)
        )

    def _model_class(self) -> Any:
        import transformers

        if not self.architecture:
            raise TargetError(
                f"{self.snapshot / 'config.json'}: names no class in architectures.",
                'Add the class that the weights are of, as in "architectures": ["LlamaForCausalLM"].',
            )
        found = getattr(transformers, self.architecture, None)
        if found is not None:
            return found
        if "auto_map" in self.config:
            raise TargetError(
                f"{self.snapshot}: {self.architecture} is code of the repository itself, which is not run.",
                f"Read that code; then import it in a target.py of your own: {docs('targets.md')}",
            )
        raise TargetError(
            f"{self.snapshot}: transformers {transformers.__version__} has no class {self.architecture}.",
            f"Its config was written by transformers {self.config.get('transformers_version', '(unknown)')}.",
        )


def _accepted(model: torch.nn.Module, batch: Batch) -> Batch:
    """Return the batch without token types if the model takes none, because a plain tokenizer makes them by default."""
    if "token_type_ids" in inspect.signature(model.forward).parameters:
        return batch
    return {name: value for name, value in batch.items() if name != "token_type_ids"}


def _takes_backend() -> bool:
    """Return whether image processors are chosen by `backend`, as in transformers 5, rather than by `use_fast`."""
    from packaging.version import Version
    from transformers import __version__

    return Version(__version__) >= Version("5.0.0.dev0")


def _generate(adapter: TransformersAdapter, model: Any, batch: Batch) -> Outputs:
    tokenizer = adapter.tokenizer
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    tokens = model.generate(
        **batch,
        do_sample=False,
        max_new_tokens=int(adapter.profile.inference.get("max_new_tokens", 16)),
        pad_token_id=pad,
    )
    new = tokens if model.config.is_encoder_decoder else tokens[:, batch["input_ids"].shape[1] :]
    return {"text": tokenizer.batch_decode(new, skip_special_tokens=True), "tokens": tokens}


def _fill_mask(adapter: TransformersAdapter, model: Any, batch: Batch) -> Outputs:
    logits = model(**batch).logits
    scores = logits[batch["input_ids"] == adapter.tokenizer.mask_token_id].softmax(-1)
    best = scores.argmax(-1)
    return {"text": [adapter.tokenizer.decode([token]).strip() for token in best.tolist()], "tokens": best}


def _classify(adapter: TransformersAdapter, model: Any, batch: Batch) -> Outputs:
    del adapter
    probabilities = model(**batch).logits.softmax(-1)
    labels = model.config.id2label
    best = probabilities.argmax(-1).flatten().tolist()
    return {"label": [labels.get(index, str(index)) for index in best], "probabilities": probabilities}


def _embed(adapter: TransformersAdapter, model: Any, batch: Batch) -> Outputs:
    """Return `embedding`: the mean of the last hidden states over positions that are not padding."""
    del adapter
    hidden = model(**batch).last_hidden_state
    mask = batch.get("attention_mask")
    if mask is None:
        return {"embedding": hidden.flatten(2).mean(-1) if hidden.ndim == 4 else hidden.mean(1)}
    weights = mask[..., None].to(hidden.dtype)
    return {"embedding": (hidden * weights).sum(1) / weights.sum(1)}


def _classes(task: Task) -> set[str]:
    """Return the names of the classes in transformers' table for a task."""
    from transformers.models.auto import modeling_auto

    table = getattr(modeling_auto, f"MODEL_{task.auto}MAPPING_NAMES")
    return {name for names in table.values() for name in ([names] if isinstance(names, str) else names)}


_CAUSAL_LM = Task("causal language model", "FOR_CAUSAL_LM_", False, _generate)
_MASKED_LM = Task("masked language model", "FOR_MASKED_LM_", False, _fill_mask)
_ANY_TEXT_MODEL = Task("text encoder", "", False, _embed)
_TASKS = (
    _CAUSAL_LM,
    Task("sequence to sequence", "FOR_SEQ_TO_SEQ_CAUSAL_LM_", False, _generate),
    _MASKED_LM,  # after sequence to sequence: BART's class is in both tables
    Task("image classifier", "FOR_IMAGE_CLASSIFICATION_", True, _classify),
    Task("text classifier", "FOR_SEQUENCE_CLASSIFICATION_", False, _classify),
    Task("token classifier", "FOR_TOKEN_CLASSIFICATION_", False, _classify),
    Task("text encoder", "FOR_TEXT_ENCODING_", False, _embed),
    Task("image encoder", "FOR_IMAGE_", True, _embed),
    _ANY_TEXT_MODEL,
)
