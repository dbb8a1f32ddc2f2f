"""Find the input that a target lacks to run from its config only, and give its owner advice."""

from __future__ import annotations

import inspect
import linecache
import re
import traceback
from pathlib import Path
from typing import Any

from mpsprobe.errors import TargetError, text_of

#: The attribute of an exception that holds advice, which `phases.target_code` and `predict` read.
NEXT_STEP = "mpsprobe_next_step"


def explain(problem: BaseException, model_class: str, name: str) -> None:
    """Attach advice to an error that a model raised on a made-up input.

    An error that mentions MPS gets none, because it says nothing about the input.

    Args:
        problem: The error, which gets the attribute `NEXT_STEP`.
        model_class: The name of the class.
        name: The target as the user named it.

    Raises:
        TargetError: An argument of a forward pass was None where its code needs a value, or was left out.
    """
    if "mps" in text_of(problem).lower():
        return
    missing = missing_argument(problem)
    if missing:
        raise TargetError(
            f"{model_class} needs `{missing}`, which cannot be made up from its config.",
            f"Write a target.py that gives it: mpsprobe target new {name}",
        ) from problem
    setattr(problem, NEXT_STEP, f"Give it a real input in a target.py: mpsprobe target new {name}")


def missing_argument(problem: BaseException) -> str:
    """Return the name of an argument that was left out, or was None where the code needs a value; else empty."""
    lacking = re.search(
        r"missing \d+ required (?:positional|keyword-only) arguments?: '(\w+)'", text_of(problem)
    )
    if isinstance(problem, TypeError) and lacking:
        return lacking[1]
    found = ""
    for frame, line in traceback.walk_tb(problem.__traceback__):
        if "mpsprobe" in frame.f_code.co_filename or "self" not in frame.f_locals:
            continue
        source = linecache.getline(frame.f_code.co_filename, line)
        names = inspect.getargs(frame.f_code).args
        absent = [one for one in names if one != "self" and frame.f_locals.get(one, 0) is None]
        stated = isinstance(problem, (AttributeError, TypeError, AssertionError, ValueError))
        here = [one for one in absent if re.search(rf"\b{re.escape(one)}\b", source)]
        if (
            stated
            and here
            and ("NoneType" in text_of(problem) or isinstance(problem, (AssertionError, ValueError)))
        ):
            found = here[0]
    return found


def next_step(problem: BaseException) -> str:
    """Return the advice that `explain` attached to an error; empty without one."""
    return str(getattr(problem, NEXT_STEP, ""))


def kind_of(raw: dict[str, Any]) -> str:
    """Return what a config without a transformers class describes (a lerobot policy, a timm model); else empty."""
    if isinstance(raw.get("type"), str) and ("input_features" in raw or "n_action_steps" in raw):
        return f"a lerobot policy ({raw['type']!r})"
    if isinstance(raw.get("architecture"), str) and ("pretrained_cfg" in raw or "num_classes" in raw):
        return f"a timm model ({raw['architecture']!r})"
    nested = [
        key
        for key, value in raw.items()
        if isinstance(value, dict) and {"model_type", "target", "_target_"} & value.keys()
    ]
    return f"a config of parts ({', '.join(nested[:4])})" if nested else ""


def refusal(folder: Path, raw: dict[str, Any], model: str) -> TargetError:
    """Return the error for a config without `model_type`, with advice.

    Args:
        folder: The folder of the config.
        raw: The content of the config.
        model: The target for the command in the advice.
    """
    kind = kind_of(raw)
    return TargetError(
        f"{folder / 'config.json'}: has no model_type" + (f": it is {kind}." if kind else "."),
        f"Write a target.py that makes the model: mpsprobe target new {model}",
    )
