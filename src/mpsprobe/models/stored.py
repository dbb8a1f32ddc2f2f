"""Make the adapter that loads a target's stored weights, also for classes that the generic adapter does not know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from mpsprobe import consent
from mpsprobe.errors import TargetError
from mpsprobe.models import choose
from mpsprobe.models import profile as profiles
from mpsprobe.models.adapter import Adapter, Weights
from mpsprobe.models.choose import make_adapter
from mpsprobe.models.hub import remote_code, snapshot
from mpsprobe.models.targets import TargetRef
from mpsprobe.models.training import trained
from mpsprobe.models.transformers_auto import TransformersAdapter, load_pretrained
from mpsprobe.models.weightless import from_config
from mpsprobe.models.weightless.random_init import RandomInitAdapter


class FamilyAdapter(RandomInitAdapter):
    """An adapter that loads the weights of its folder, and makes the input of the class and runs it by its family."""

    weights = Weights.STORED

    def load(self, device: torch.device, dtype: str) -> nn.Module:
        return load_pretrained(
            self.blueprint.model_class,
            self.snapshot,
            device,
            dtype,
            self.profile.attention,
            weights=self.weights,
        )


def make(ref: TargetRef, folder: Path, say: Callable[[str], None] = lambda _: None) -> Adapter:
    """Make the adapter that loads the stored weights of a target.

    A profile with an adapter of its own keeps it. Under the generic profile, `TransformersAdapter` knows the meaning
    of the results of common tasks; classes of other tasks, and classes of a repository's own code, are run by their
    family.

    Args:
        ref: The target.
        folder: The folder with its files.
        say: A function that is called with a line for each file of the repository's code that will run.

    Raises:
        MpsprobeError: There is no such adapter, or its user did not agree to its code.
    """
    if ref.file is None:
        consent.require(folder, ref.name, trusted=ref.trust_remote_code)
    adapter = _make(ref, folder, say)
    adapter.workload = ref.settings.workload
    return trained(adapter, ref.settings)


def _make(ref: TargetRef, folder: Path, say: Callable[[str], None]) -> Adapter:
    adapter = make_adapter(ref.profile, folder)
    if not isinstance(adapter, TransformersAdapter) or ref.profile.adapter != _generic():
        return adapter
    if needs_remote_code(ref, folder):
        raw = snapshot.read_config(folder)
        if ref.trust_remote_code:
            for file in remote_code.files(folder, raw, offline=ref.offline):
                say(f"runs {file}")
        blueprint = from_config.of_folder(
            folder, ref.name, trust_remote_code=ref.trust_remote_code, offline=ref.offline
        )
        return FamilyAdapter(folder, ref.profile, blueprint)
    try:
        _ = adapter.task
    except TargetError:
        try:
            return FamilyAdapter(folder, ref.profile, from_config.of_folder(folder, ref.name))
        except TargetError:  # loading reports the same, as the failure of its phase
            return adapter
    return adapter


def needs_remote_code(ref: TargetRef, folder: Path) -> bool:
    """Return whether a target under the generic profile has a class that is its repository's own code."""
    return ref.profile.adapter == _generic() and remote_code.is_needed(snapshot.read_config(folder))


def _generic() -> str:
    return profiles.load(choose.GENERIC).adapter
