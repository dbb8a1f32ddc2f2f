"""Run any diffusers pipeline by its own `__call__`: text encoders, the denoising loop with its scheduler, the VAE."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from mpsprobe.errors import TargetError, docs
from mpsprobe.models.adapter import Adapter, Batch, Outputs, Weights
from mpsprobe.models.diffusers import parts
from mpsprobe.models.diffusers.parts import Index
from mpsprobe.models.profile import Profile
from mpsprobe.models.quantised import QuantisedPart
from mpsprobe.models.weightless import from_config
from mpsprobe.models.weightless.weights_dtype import dtype_of

_PROMPT = "A small boat on a calm lake in the evening"
#: An arbitrary class of ImageNet: 207, golden retriever.
_LABEL = 207
#: Height and width in pixels, and frames of a video, in a shrunk pipeline; 9 is one more than a multiple of 8,
#: which video VAEs need.
_SIDE, _FRAMES = 128, 9


class DiffusersAdapter(Adapter):
    """An adapter that builds the pipeline of a folder's model_index.json and calls it once, for an image or a video.

    With stored weights the pipeline loads all its own files. Without them a tokenizer that lacks its files is replaced
    by one that makes up token ids, so that the text encoders run in any case. Noise comes from a CPU generator with a
    fixed seed, in pipelines that take a generator.
    """

    def __init__(self, snapshot: Path, profile: Profile) -> None:
        super().__init__(snapshot, profile)
        self._notes: list[str] = []
        self._shrunk: Index | None = None

    @property
    def notes(self) -> list[str]:
        return self._notes

    @cached_property
    def _whole(self) -> Index:
        return parts.read(self.snapshot)

    @property
    def index(self) -> Index:
        """Return the pipeline's class and parts as they are built: the shrunk ones after `shrink`."""
        return self._shrunk or self._whole

    @property
    def quantised(self) -> list[QuantisedPart]:
        return [part.quantised for part in self._whole.parts if part.quantised is not None]

    def shrink(self) -> list[str]:
        """Keep fewer layers and request a smaller image; return sentences about the changes."""
        self._shrunk, changes = parts.shrink(self._whole)
        said = [f"Shrunk: {'; '.join(changes)}."] if changes else []
        size = ", ".join(f"{name} {value}" for name, value in self._smaller().items())
        return [*said, *([f"The pipeline is called with {size}."] if size else [])]

    def load(self, device: torch.device, dtype: str) -> nn.Module:
        """Load or build a module that holds the pipeline's models under their names, and the pipeline as `.pipeline`.

        Raises:
            TargetError: The pipeline cannot be loaded or built.
        """
        dtype = self._dtype(dtype)
        if self.weights is Weights.STORED:
            return self._stored(device, dtype)
        notes: list[str] = []
        pipeline, models = parts.assemble(
            self.index, device, dtype, initialise=self.weights is Weights.RANDOM, notes=notes
        )
        self._notes += [note for note in notes if note not in self._notes]
        return _with(models, pipeline)

    def sample(self) -> dict[str, Any]:
        """Return the pipeline's `prompt`, its `class_labels`, or both, depending on which it takes.

        Raises:
            TargetError: The pipeline needs something else, such as an image.
        """
        given: dict[str, Any] = {}
        for name, parameter in self._parameters.items():
            needed = parameter.default is inspect.Parameter.empty and name != "self"
            if name == "prompt":
                given[name] = self.profile.sample.get("prompt", _PROMPT)
            elif name == "class_labels":
                given[name] = [_LABEL]
            elif needed and parameter.kind is not parameter.VAR_KEYWORD:
                raise TargetError(
                    f"{self.index.pipeline.__name__} wants {name!r}, which is not made up.",
                    f"Make its sample in a target.py of your own: {docs('targets.md')}",
                )
        return given

    def prepare(self, sample: dict[str, Any]) -> Batch:
        """Return the sample with the numbers of steps, pixels, frames and images that the pipeline's `__call__` takes.

        No tensor is among them.
        """
        steps = int(self.profile.inference.get("num_inference_steps", 2))
        wishes = {"num_inference_steps": steps, "output_type": "np"}
        if self._shrunk is not None:
            wishes |= self._smaller()
        asked = self.workload
        if asked.image_size is not None:
            wishes |= {"height": asked.image_size, "width": asked.image_size}
        if asked.frames is not None:
            wishes["num_frames"] = asked.frames
        if asked.batch is not None:
            wishes["num_images_per_prompt"] = wishes["num_videos_per_prompt"] = asked.batch
        return {**sample, **{name: value for name, value in wishes.items() if name in self._parameters}}

    def forward(self, model: nn.Module, batch: Batch) -> Outputs:
        """Return the latents after two denoising steps; PixArt's pipeline treats a single step differently."""
        short = {"num_inference_steps": 2, "output_type": "latent"}
        return self.extract(
            self._call(model, {**batch, **{name: value for name, value in short.items() if name in batch}})
        )

    def infer(self, model: nn.Module, batch: Batch) -> Any:
        return self._call(model, batch)

    def extract(self, raw: Any) -> Outputs:
        """Return the pipeline's arrays and tensors (`images`, `frames`, `audios`) as tensors on the CPU."""
        found: Outputs = {}
        for name, value in raw.items():
            if isinstance(value, Tensor):
                found[name] = value.cpu()
            elif isinstance(value, np.ndarray):
                found[name] = torch.from_numpy(value)
        return found

    @property
    def doing(self) -> str:
        """Return what `infer` does in a few words, with the number of denoising steps."""
        steps = self.profile.inference.get("num_inference_steps", 2)
        return f"the pipeline's own call, {steps} denoising steps"

    @cached_property
    def _parameters(self) -> dict[str, inspect.Parameter]:
        return dict(inspect.signature(self.index.pipeline.__call__).parameters)

    def class_name(self, model: nn.Module) -> str:
        del model  # it only holds the pipeline's models, and is not a class of diffusers
        name: str = self.index.pipeline.__name__
        return name

    def _call(self, model: Any, batch: Batch) -> Any:
        options = dict(batch)
        if "generator" in self._parameters:
            options["generator"] = torch.Generator("cpu").manual_seed(from_config.SEED)
        with _same_noise_in_every_dtype():
            return model.pipeline(**options)

    def _smaller(self) -> dict[str, Any]:
        """Return the arguments for a smaller image or video that the pipeline's `__call__` takes."""
        wishes = {"height": _SIDE, "width": _SIDE, "num_frames": _FRAMES, "use_resolution_binning": False}
        return {name: value for name, value in wishes.items() if name in self._parameters}

    def _dtype(self, dtype: str) -> str:
        wanted = dtype if dtype != "auto" else self.profile.dtype
        if wanted != "auto":
            return wanted
        stated = parts.stated_dtype(self.index)
        note = f"No dtype was given: {stated}."
        if note not in self._notes:
            self._notes.append(note)
        return stated

    def _stored(self, device: torch.device, dtype: str) -> nn.Module:
        weights_dtype = dtype_of({}, dtype)
        with from_config.worded(f"{self.snapshot}: the pipeline cannot be loaded", TargetError):
            pipeline = self.index.pipeline.from_pretrained(
                self.snapshot, torch_dtype=weights_dtype, local_files_only=True, use_safetensors=True
            ).to(device)
        pipeline.set_progress_bar_config(disable=True)
        models = {name: one for name, one in pipeline.components.items() if isinstance(one, nn.Module)}
        return _with(nn.ModuleDict(models), pipeline)


@contextlib.contextmanager
def _same_noise_in_every_dtype() -> Iterator[None]:
    """Make `torch.randn` with a generator draw float16 and bfloat16 as rounded float32, while the context lasts.

    A CPU generator yields other numbers in float16 and bfloat16 than in float32 (torch 2.11, 2.13), and the images
    from different noise cannot be compared.
    """
    drawn: Callable[..., Tensor] = torch.randn

    def randn(*size: Any, dtype: torch.dtype | None = None, **options: Any) -> Tensor:
        if dtype in (torch.float16, torch.bfloat16) and options.get("generator") is not None:
            return drawn(*size, dtype=torch.float32, **options).to(dtype)
        return drawn(*size, dtype=dtype, **options)

    with mock.patch.object(torch, "randn", randn):
        yield


def _with(models: nn.Module, pipeline: Any) -> nn.Module:
    holder: Any = models.eval()
    holder.pipeline = pipeline
    return models
