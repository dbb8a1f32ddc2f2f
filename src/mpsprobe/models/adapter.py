"""The interface of a target: how the phases load it, make its input and run it."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from mpsprobe.models.profile import Profile
from mpsprobe.models.quantised import QuantisedPart
from mpsprobe.run.outlook import Workload

#: A processed input: keyword arguments of the model, with tensors on one device and plain values.
Batch = dict[str, Any]
#: Named results on the CPU: tensors, strings, or lists of strings.
Outputs = dict[str, Any]


class Weights(str, enum.Enum):
    """Where a model's weights come from: its files, random numbers, or nowhere."""

    STORED = "stored"  #: the snapshot's files
    RANDOM = "random"  #: a fixed seed
    NONE = "none"  #: no weights: the device has no memory for them, as in a prediction


#: Fields of a config that state the greatest number of tokens that a model takes.
_TOKEN_LIMITS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_sequence_length",
    "max_seq_len",
    "max_target_positions",
)


def token_limit(model: torch.nn.Module) -> int | None:
    """Return the largest token limit that the model's config or its text parts state; None when no field states one."""
    config = getattr(model, "config", None)
    parts = [config, *(getattr(config, name, None) for name in ("text_config", "llm_config", "decoder"))]
    limits = [
        limit
        for part in parts
        for name in _TOKEN_LIMITS
        if isinstance(limit := getattr(part, name, None), int) and not isinstance(limit, bool) and limit > 0
    ]
    return max(limits, default=None)


class Adapter(ABC):
    """A target's own ways of loading, sampling, preparing, inferring and extracting.

    The phases call these methods in order. An adapter holds no device and no model, so the same adapter serves both
    the model under test and its float32 CPU reference.

    Attributes:
        snapshot: The local folder with the target's config, weights and processor.
        profile: The active profile.
        weights: The source of the weights for `load`, which must be set before it.
        workload: The requested sizes, which must be set before `prepare`.
    """

    weights: Weights = Weights.STORED
    workload: Workload = Workload()

    def __init__(self, snapshot: Path, profile: Profile) -> None:
        self.snapshot = snapshot
        self.profile = profile

    @property
    def notes(self) -> list[str]:
        """Return sentences for the report about decisions and assumptions; `load` and `prepare` may add some."""
        return []

    @property
    def doing(self) -> str:
        """Return what `infer` does in a few words, for the sentence that reports it: `"generation of 16 tokens"`."""
        return f"the inference of profile {self.profile.name}"

    @property
    def quantised(self) -> list[QuantisedPart]:
        """Return the parts of the target whose stored weights are quantised; empty unless the adapter finds some."""
        return []

    def class_name(self, model: torch.nn.Module) -> str:
        """Return the name of the model's class, as reports show it."""
        return type(model).__name__

    @property
    def grad_mode(self) -> AbstractContextManager[Any]:
        """Return a context manager with the autograd mode for the target's code, for one `with`.

        The default is `torch.inference_mode`, because no code of transformers or diffusers enables gradients again. A
        user's code may do so with `torch.enable_grad`, which has no effect on tensors made in inference mode.
        """
        return torch.inference_mode()

    @abstractmethod
    def load(self, device: torch.device, dtype: str) -> torch.nn.Module:
        """Load the model in eval mode onto `device`, with weights in `dtype` (`"auto"`: their stored dtype)."""

    def shrink(self) -> list[str] | None:
        """Prepare `load` to make a smaller weightless model: fewer layers, with the same widths and code paths.

        It is called before `load`.

        Returns:
            Sentences about the changes; None (the default) when this adapter cannot shrink its model.
        """
        return None

    @abstractmethod
    def sample(self) -> dict[str, Any]:
        """Make one raw input (images, text, history) from a fixed seed."""

    @abstractmethod
    def prepare(self, sample: dict[str, Any]) -> Batch:
        """Process a sample into a batch on the CPU; each call makes a new one, because inference may change it."""

    @abstractmethod
    def forward(self, model: torch.nn.Module, batch: Batch) -> Outputs:
        """Run one forward pass in `grad_mode` and return the named tensors that parity compares."""

    @abstractmethod
    def infer(self, model: torch.nn.Module, batch: Batch) -> Any:
        """Run the target's own inference (generate, a trajectory, an embedding), seeded so that it can be repeated."""

    @abstractmethod
    def extract(self, raw: Any) -> Outputs:
        """Return the named results of `infer` on the CPU, as the profile's `outputs` name them."""

    #: A sentence for readers that says what `judge` examines.
    meaning: str = ""

    def judge(self, outputs: Outputs) -> list[str] | None:
        """Return sentences about what is wrong with the meaning of the outputs.

        None (the default) means that this adapter has no test of meaning.
        """
        del outputs
        return None

    def judge_repeat(self, outputs: Outputs, repeated: Outputs) -> tuple[bool, str] | None:
        """Judge the difference between a second inference of the same sample and the first.

        Returns:
            Whether the difference is as expected, and a sentence about it; None (the default) where both must
            be equal.
        """
        del outputs, repeated
        return None
