"""The target of a prediction: what `models.targets` finds, with an adapter that needs no weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mpsprobe.models import targets
from mpsprobe.models.adapter import Adapter, Weights
from mpsprobe.models.weightless import config_only
from mpsprobe.options import Settings
from mpsprobe.run.workload import RUN_STEPS, RUN_TURNS, Workload


@dataclass(frozen=True)
class Target:
    """A target without weights.

    Attributes:
        name: as the user gave it, or the default target's name.
        adapter: builds, feeds and runs it.
        dtype: asked for.
        notes: what was changed, one sentence each.
        workload: what is asked of it.
        plan: fields of `run.Target` that say how often its owner wants it.
    """

    name: str
    adapter: Adapter
    dtype: str
    notes: list[str] = field(default_factory=list)
    workload: Workload = field(default_factory=Workload)
    plan: dict[str, Any] = field(default_factory=dict)


def resolve(settings: Settings, say: Callable[[str], None] = lambda _: None) -> Target:
    """Find the class, the config and the adapter.

    Args:
        settings: what the user asked for; a prediction is always one without weights.
        say: is told what foreign code will run, before it does.

    Raises:
        MpsprobeError: it cannot be had; one line, with what would help.
    """
    ref = targets.resolve(_run_of(settings).replace(random_init=True))
    adapter, changes = config_only.make(ref, config_only.obtain(ref).path, Weights.NONE, say)
    adapter.workload = settings.workload
    if settings.autocast is not None:
        words = ref.profile.autocast_words(ref.profile.autocast)
        changes = [*changes, f"Asked for: {words}."]
    return Target(ref.name, adapter, ref.profile.dtype, changes, settings.workload, ref.plan)


def _run_of(settings: Settings) -> Settings:
    """Return the options of the run that is recorded: long loops are cut, and carried on by the forecast."""
    tokens, steps = settings.new_tokens, settings.steps
    return settings.replace(
        new_tokens=min(tokens, RUN_TURNS) if tokens is not None else None,
        steps=min(steps, RUN_STEPS) if steps is not None else None,
    )
