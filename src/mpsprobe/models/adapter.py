"""The interface of a target: how the phases load, feed and run it."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from mpsprobe.models.profile import Profile
from mpsprobe.models.quantised import QuantisedPart
from mpsprobe.run.workload import Workload

#: A processed input: keyword arguments of the model, tensors on one device beside plain values.
Batch = dict[str, Any]
#: Named results on the CPU: tensors, strings, or lists of strings.
Outputs = dict[str, Any]


class Weights(str, enum.Enum):
    """The source of a model's weights."""

    STORED = "stored"  #: the snapshot's files
    RANDOM = "random"  #: a fixed seed
    NONE = "none"  #: nowhere: the device has no memory for them, as in a prediction


#: Fields of a config that state how many tokens a model takes at most.
_TOKEN_LIMITS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_sequence_length",
    "max_seq_len",
    "max_target_positions",
)


def token_limit(model: torch.nn.Module) -> int | None:
    """Return the largest number of tokens that a model takes, by its config; None when that states no limit."""
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

    The phases call these in order; an adapter holds no device and no model, so that the same adapter serves
    the model under test and its float32 CPU reference.

    Attributes:
        snapshot: local folder with the target's config, weights and processor.
        profile: the profile in force.
        weights: what `load` gives the model; set it before.
        workload: the sizes that the user asks for; set it before `prepare`.
    """

    weights: Weights = Weights.STORED
    workload: Workload = Workload()

    def __init__(self, snapshot: Path, profile: Profile) -> None:
        self.snapshot = snapshot
        self.profile = profile

    @property
    def notes(self) -> list[str]:
        """Decisions and assumptions made for the user, one sentence each; `load` and `prepare` may add to it."""
        return []

    @property
    def doing(self) -> str:
        """A description of `infer` for people."""
        return f"the inference of profile {self.profile.name}"

    @property
    def quantised(self) -> list[QuantisedPart]:
        """The models of the target whose stored weights are quantised; empty where none is known to be."""
        return []

    def class_name(self, model: torch.nn.Module) -> str:
        """Return the name of the model's class, as reports show it."""
        return type(model).__name__

    @property
    def grad_mode(self) -> AbstractContextManager[Any]:
        """Return the autograd mode that the target's code runs in, for one `with`.

        The default is `torch.inference_mode`, which no code of transformers or diffusers leaves. Code of a user may:
        with `torch.enable_grad`, which has no effect on tensors made in inference mode.
        """
        return torch.inference_mode()

    @abstractmethod
    def load(self, device: torch.device, dtype: str) -> torch.nn.Module:
        """Load the model in eval mode, its weights in `dtype` (`"auto"`: as stored), straight to `device`."""

    def shrink(self) -> list[str] | None:
        """Make what `load` builds without weights smaller: fewer layers, else the same widths and code paths.

        Called before `load`. Returns what was changed, one sentence each; None (the default) says that this
        adapter does not know how.
        """
        return None

    @abstractmethod
    def sample(self) -> dict[str, Any]:
        """Make one raw input (images, text, history) from a fixed seed."""

    @abstractmethod
    def prepare(self, sample: dict[str, Any]) -> Batch:
        """Process a sample into a batch on the CPU, anew for every call: inference may consume it."""

    @abstractmethod
    def forward(self, model: torch.nn.Module, batch: Batch) -> Outputs:
        """Run one forward pass in `grad_mode` and return the named tensors that parity compares."""

    @abstractmethod
    def infer(self, model: torch.nn.Module, batch: Batch) -> Any:
        """Run the target's own inference (generate, a trajectory, an embedding), deterministic by seed."""

    @abstractmethod
    def extract(self, raw: Any) -> Outputs:
        """Return the named results of `infer` on the CPU, as the profile's `outputs` name them."""

    #: What `judge` looks at, as a sentence for people.
    meaning: str = ""

    def judge(self, outputs: Outputs) -> list[str] | None:
        """Return what is wrong with the meaning of the outputs, one sentence each.

        None (the default) says that this adapter knows no test of meaning.
        """
        del outputs
        return None

    def judge_repeat(self, outputs: Outputs, repeated: Outputs) -> tuple[bool, str] | None:
        """Judge how a second inference of the same sample differs from the first.

        Returns:
            Whether the difference is as it should be, and a sentence that says so; None (the default) where the two
            must be the same.
        """
        del outputs, repeated
        return None
