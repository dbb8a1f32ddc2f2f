"""An adapter for models without their weights: built from a config, run on their processors' or made-up input."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mpsprobe.errors import MpsprobeError, TargetError
from mpsprobe.models.adapter import Adapter, Batch, Outputs, Weights
from mpsprobe.models.profile import Profile
from mpsprobe.models.quantised import QuantisedPart
from mpsprobe.models.targets import NEW_TOKENS
from mpsprobe.models.weightless import from_config, plain_module, synthetic, unfed
from mpsprobe.models.weightless.families import GENERATE, family_of
from mpsprobe.models.weightless.from_config import Blueprint
from mpsprobe.models.weightless.processors import Processors
from mpsprobe.models.weightless.sizes import sized
from mpsprobe.models.weightless.weights_dtype import dtype_of


class RandomInitAdapter(Adapter):
    """An adapter that builds the class that a config names, and makes its input by its family.

    Its input is the one that a config file states; else one of the folder's tokenizer, image processor or feature
    extractor; else one made up from the config, or from the code of a class outside transformers. `notes` states
    which.

    Attributes:
        blueprint: The class and its config.
        family: The family of the class.
        made_up: Whether the last input was made up, because no processor or config file gives it.
    """

    made_up = False

    weights = Weights.RANDOM

    def __init__(self, snapshot: Path, profile: Profile, blueprint: Blueprint | None = None) -> None:
        super().__init__(snapshot, profile)
        self.blueprint = blueprint or from_config.of_folder(snapshot)
        self.family = family_of(self.blueprint.model_class.__name__)
        self._notes = list(self.blueprint.notes)

    @property
    def notes(self) -> list[str]:
        return self._notes

    @property
    def quantised(self) -> list[QuantisedPart]:
        how = self.blueprint.quantised
        return [] if how is None else [QuantisedPart("", self.blueprint.library, how)]

    @property
    def grad_mode(self) -> AbstractContextManager[Any]:
        """Return `torch.inference_mode` for transformers and diffusers, and `torch.no_grad` for other classes.

        The code of a user or a repository may enable gradients for a part, which inference mode does not allow.
        """
        package = self.blueprint.model_class.__module__.partition(".")[0]
        return torch.inference_mode() if package in ("transformers", "diffusers") else torch.no_grad()

    def load(self, device: torch.device, dtype: str) -> nn.Module:
        model = from_config.build(
            self.blueprint.model_class,
            self.blueprint.config,
            device,
            dtype,
            self.profile.attention,
            initialise=self.weights is Weights.RANDOM,
        )
        self._apply_generation_config(model)
        if dense := plain_module.made_dense(model):
            note = f"Its sparse {', '.join(dense)} is taken for dense: what reads it is not predicted as it runs."
            if note not in self._notes:
                self._notes.append(note)
        return model

    def sample(self) -> dict[str, Any]:
        """Return an empty sample, because `prepare` makes the input."""
        return {}

    def prepare(self, sample: dict[str, Any]) -> Batch:
        del sample
        notes: list[str] = []
        batch, said = sized(self._make(notes), self.workload)
        notes += said
        if self.workload.image_size is not None and self._interpolates:
            batch["interpolate_pos_encoding"] = True
        for note in notes:
            self._note(note)
        return batch

    def forward(self, model: nn.Module, batch: Batch) -> Outputs:
        """Return the tensors of a plain forward pass by name, without lists of tensors.

        An encoder-decoder gets a start token; a class without a forward pass runs its inference.

        Raises:
            TargetError: A made-up input lacks an argument that the code needs.
        """
        parameters = inspect.signature(model.forward).parameters
        feed = self.blueprint.feed
        if feed is not None and feed.method != "forward":  # another method takes other arguments
            batch = {name: value for name, value in batch.items() if name in parameters}
        config = getattr(model, "config", None)
        decodes = "decoder_input_ids" in parameters
        if decodes and getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" not in batch:
            start = getattr(config, "decoder_start_token_id", None) or 0
            rows = next(value.shape[0] for value in batch.values() if isinstance(value, Tensor))
            ids = torch.full((rows, 1), start, dtype=torch.int64)
            batch = {**batch, "decoder_input_ids": ids.to(next(model.parameters()).device)}
        if type(model).forward is nn.Module.forward:  # Bark only generates
            return self.extract(self.infer(model, batch))
        try:
            return self.extract(_named(model(**_fitting(model, batch))))
        except MpsprobeError:
            raise
        except (Exception, SystemExit) as problem:
            if self.made_up and feed is None:
                unfed.explain(problem, type(model).__name__, self.blueprint.name)
            raise

    def infer(self, model: nn.Module, batch: Batch) -> Outputs:
        feed = self.blueprint.feed
        if feed is not None:
            return _named(_called(model, feed.method, _fitting(model, batch)))
        try:
            return self._inferred(model, batch)
        except MpsprobeError:
            raise
        except (Exception, SystemExit) as problem:
            if self.made_up:
                unfed.explain(problem, type(model).__name__, self.blueprint.name)
            raise

    def _inferred(self, model: nn.Module, batch: Batch) -> Outputs:
        generate: Any = getattr(model, "generate", None)
        has_forward = type(model).forward is not nn.Module.forward
        if generate is None or (self.family.runs != GENERATE and has_forward):
            return _named(model(**_fitting(model, batch)))
        options = {"max_new_tokens": NEW_TOKENS, **self.profile.inference}
        torch.manual_seed(from_config.SEED)
        return {"tokens": generate(**_fitting(model, batch), **options)}

    def extract(self, raw: Outputs) -> Outputs:
        return {name: value.cpu() for name, value in raw.items()}

    @property
    def doing(self) -> str:
        if self.blueprint.feed is not None and self.blueprint.feed.method != "forward":
            return f"a call of its {self.blueprint.feed.method}"
        if self.family.runs == GENERATE:
            return f"generate, {self.profile.inference.get('max_new_tokens', NEW_TOKENS)} new tokens"
        return "one forward pass"

    def _make(self, notes: list[str]) -> Batch:
        blueprint = self.blueprint
        dtype = dtype_of(blueprint.config, self.profile.dtype)
        self.made_up = True
        if blueprint.feed is not None:
            self.made_up = False
            return blueprint.feed.make(dtype)
        if not blueprint.is_pretrained:
            return plain_module.inputs(blueprint.model_class, blueprint.config, dtype, notes)
        if blueprint.folder is not None:
            batch = Processors(blueprint.folder, blueprint.model_class, self.family, notes).batch()
            if batch is not None:
                self.made_up = False
                return {
                    name: value.to(dtype)
                    if isinstance(value, Tensor) and value.is_floating_point()
                    else value
                    for name, value in batch.items()
                }
        made = synthetic.Inputs(
            blueprint.model_class, blueprint.config, self.family, dtype, blueprint.name or "MODEL"
        )
        batch = made.make()
        notes += ["The input is made up from the config.", *made.notes]
        return batch

    @property
    def _interpolates(self) -> bool:
        """Return whether the model's forward pass can interpolate positions for an image of another size."""
        forward: Any = getattr(self.blueprint.model_class, "forward")  # noqa: B009 (mypy: type[Any] has no forward)
        return "interpolate_pos_encoding" in inspect.signature(forward).parameters

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)

    def _apply_generation_config(self, model: Any) -> None:
        """Apply the folder's generation config; without one, set a start token if a decoder has none.

        Raises:
            TargetError: The folder's generation config cannot be read.
        """
        folder = self.blueprint.folder
        generation = getattr(model, "generation_config", None)
        if generation is None:
            return
        if folder is None or not (folder / "generation_config.json").is_file():
            starts = (generation.decoder_start_token_id, generation.bos_token_id)
            if model.config.is_encoder_decoder and starts == (None, None):
                generation.decoder_start_token_id = generation.pad_token_id or 0
                note = "The config names no token that decoding begins with: "
                self._note(f"{note}{generation.decoder_start_token_id}.")
            return
        from transformers import GenerationConfig

        try:
            model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, TypeError) as problem:
            raise TargetError(f"{folder / 'generation_config.json'}: {problem}.") from problem


def _called(model: nn.Module, method: str, batch: Batch) -> Any:
    """Call a method of the model with the batch, and return what it returns.

    Raises:
        TargetError: The model has no such method.
    """
    if method == "forward":
        return model(**batch)
    found = getattr(model, method, None)
    if found is None:
        raise TargetError(
            f"{type(model).__name__} has no method {method!r}.", "It is named by the config's mpsprobe."
        )
    return found(**batch)


def _fitting(model: nn.Module, batch: Batch) -> Batch:
    """Return the batch with its floating-point tensors cast to the dtype of the model's weights."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return {
        name: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in batch.items()
    }


def _named(output: Any) -> Outputs:
    """Return the tensors of a model's output by name: `output`, `output0` and so on, or the fields of an object."""
    if isinstance(output, Tensor):
        return {"output": output}
    if isinstance(output, (list, tuple)):
        return {f"output{index}": value for index, value in enumerate(output) if isinstance(value, Tensor)}
    items = output.items() if hasattr(output, "items") else vars(output).items()
    return {name: value for name, value in items if isinstance(value, Tensor)}
