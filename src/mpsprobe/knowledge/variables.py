"""The environment variables that torch reads for MPS, and the effect of a given value.

Each is judged as torch itself parses it (`strtod`, `std::stoi`, mere presence and so on), because that decides the
effect of a malformed value: `0,7` silently means "no limit", `true` ends the import, PREFER_METAL=0 means on.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
from packaging.version import Version

from mpsprobe import toml
from mpsprobe.knowledge._pasted import torch_release

HIGH = "PYTORCH_MPS_HIGH_WATERMARK_RATIO"
LOW = "PYTORCH_MPS_LOW_WATERMARK_RATIO"

#: default_high_watermark_upper_bound in MPSAllocator.h; also the bound of the low ratio when the high one is 0.
UPPER_BOUND = 2.0


class Variable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An environment variable that PyTorch's MPS backend reads.

    Attributes:
        name: The name of the variable.
        since: The first release that reads it.
        reads: How the text becomes a value (see `data/environment.toml`).
        when: The moment at which it is read; a later change has no effect.
        does: What it does.
        source: A link, or "wheel".
        default: The value when it is not set; empty when there is none.
        maximum: The highest legal bit mask; 0 for no check.
        choices: The legal texts of a `choice`.
    """

    name: str
    since: str
    reads: Literal["ratio", "stoi", "nonzero", "presence", "bitmask", "choice", "unread"]
    when: str
    does: str
    source: str
    default: str = ""
    maximum: int = 0
    choices: tuple[str, ...] = ()


class Problem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value of an environment variable that is wrong, dangerous or without effect.

    Attributes:
        variable: The name of the variable.
        value: The text that it is set to.
        what: What torch does with it, in one sentence.
        fix: What to set instead.
        severity: `error` when the program fails because of it, `warning` when it runs but not as intended.
    """

    variable: str
    value: str
    what: str
    fix: str
    severity: Literal["error", "warning"] = "warning"


class _File(msgspec.Struct, frozen=True):
    variable: tuple[Variable, ...]


@lru_cache(maxsize=1)
def variables() -> tuple[Variable, ...]:
    """Return every environment variable of the data file, in its order."""
    return toml.load(Path(__file__).parent / "data" / "environment.toml", _File).variable


def check_variables(env: Mapping[str, str], torch: str | None = None) -> list[Problem]:
    """Return the problems with the MPS variables of `env`.

    Args:
        env: The environment, such as `os.environ`.
        torch: The release that will read it; None for the newest.

    Returns:
        The problems: those of single variables in the order of the data file, then those of the two watermark
        ratios, then names that torch does not read. Empty when there are none.
    """
    known = {variable.name: variable for variable in variables()}
    problems: list[Problem] = []
    for name, variable in known.items():
        if name not in env:
            continue
        if torch is not None and torch_release(torch) < Version(variable.since):
            what = f"torch {torch} does not read {name}: it came with {variable.since}."
            problems.append(
                Problem(name, env[name], what, f"Unset it, or use torch {variable.since} or newer.")
            )
            continue
        problems += _judge(variable, env[name])
    problems += _watermarks(env)
    problems += [_unknown(name, env[name], known) for name in env if _looks_like_ours(name, known)]
    return problems


class Watermarks(NamedTuple):
    """The two watermark ratios of the MPS allocator, as it reads them when it starts.

    Attributes:
        high: The value of PYTORCH_MPS_HIGH_WATERMARK_RATIO; 0 means no limit.
        low: The value of PYTORCH_MPS_LOW_WATERMARK_RATIO.
        refusal: The message of the RuntimeError that illegal ratios cause; empty where they are legal.
    """

    high: float
    low: float
    refusal: str


def watermarks(env: Mapping[str, str]) -> Watermarks:
    """Return the two ratios as the allocator reads them from `env` (MPSHeapAllocatorImpl::init_allocator).

    A value that does not begin with a number, such as an empty one, is read as 0. With illegal ratios the allocator
    fails to start; each use of MPS memory starts it again and therefore raises the error again.
    """
    defaults = {variable.name: variable.default for variable in variables()}
    high, low = (strtod(env.get(name, defaults[name])) for name in (HIGH, LOW))
    refusal = ""
    if not 0.0 <= high <= UPPER_BOUND:
        refusal = f"invalid high watermark ratio {high:g}"
    elif not 0.0 <= low <= (high or UPPER_BOUND):
        refusal = f"invalid low watermark ratio {low:g}"
    return Watermarks(high, low, refusal)


def strtod(text: str) -> float:
    """Return the number that C's `strtod` reads from the beginning of a text: 70 for `70%`, 0.0 without one."""
    found = re.match(r"\s*([+-]?0x(?:[\da-f]+\.?[\da-f]*|\.[\da-f]+)(?:p[+-]?\d+)?)", text, re.IGNORECASE)
    if found:
        return float.fromhex(found[1])
    found = re.match(r"\s*[+-]?(?:inf(?:inity)?|nan|(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)", text, re.IGNORECASE)
    return float(found[0]) if found else 0.0


def _leading_integer(text: str) -> int | None:
    found = re.match(r"\s*[+-]?\d+", text)
    return int(found[0]) if found else None


def _judge(variable: Variable, value: str) -> list[Problem]:
    """Return the problems with the value of one variable, except a watermark ratio; see `_watermarks`."""
    name, number = variable.name, _leading_integer(value)

    def problem(what: str, fix: str, severity: Literal["error", "warning"] = "warning") -> list[Problem]:
        return [Problem(name, value, what, fix, severity)]

    if variable.reads == "stoi" and (number is None or abs(number) >= 2**31):
        what = (
            f"{name}={value!r} is not an integer: torch reads it with std::stoi, which ends `import torch`."
        )
        return problem(what, f"Set {name}=1 (on) or 0 (off).", "error")
    if variable.reads == "nonzero" and number is None:
        what = f"{name}={value!r}: new releases take any text but 0 as on, old ones fail without an integer."
        return problem(what, f"Set {name}=1, or unset it.")
    if variable.reads == "presence" and value.strip().lower() in {"", "0", "false", "off", "no"}:
        what = f"{name}={value!r} turns it on: torch only looks whether the variable exists."
        return problem(what, f"Unset {name} to turn it off.")
    if variable.reads == "choice" and value not in variable.choices:
        legal = ", ".join(variable.choices)
        return problem(f"{name}={value!r} is ignored with a warning.", f"Legal values: {legal}.")
    if variable.reads == "bitmask":
        if number is None:
            return problem(f"{name}={value!r} is no integer and counts as 0 (off).", f"Set {name}=1 or more.")
        if variable.maximum and not 0 <= number <= variable.maximum:
            what = f'{name}={value!r} raises "invalid log options": the mask ends at {variable.maximum}.'
            return problem(what, f"Use a value from 0 to {variable.maximum}.", "error")
    return []


def _watermarks(env: Mapping[str, str]) -> list[Problem]:
    """Return the problems with the two watermark ratios, which torch checks one after the other when it starts."""
    texts = {name: env[name] for name in (HIGH, LOW) if name in env}
    problems = [_not_a_ratio(name, text) for name, text in texts.items() if not _is_number(text)]
    high, low, refusal = watermarks(env)
    if not 0.0 <= high <= UPPER_BOUND:
        what = (
            f"{HIGH}={texts[HIGH]} is outside 0 to {UPPER_BOUND:g}: the first MPS allocation raises "
            f'"RuntimeError: {refusal}".'
        )
        return [
            *problems,
            Problem(HIGH, texts[HIGH], what, f"Use 0 (no limit) to {UPPER_BOUND:g}; default 1.7.", "error"),
        ]
    bound = UPPER_BOUND if high == 0.0 else high
    if refusal:
        named = LOW if LOW in texts else HIGH
        what = (
            f"The low watermark ratio ({low:g}{'' if LOW in texts else ', the default'}) is above the high "
            f'one ({bound:g}): the first MPS allocation raises "RuntimeError: {refusal}".'
        )
        if LOW in texts and not 0.0 <= low <= UPPER_BOUND:
            what = (
                f"{LOW}={texts[LOW]} is outside 0 to {bound:g}: the first MPS allocation raises "
                f'"RuntimeError: {refusal}".'
            )
        fix = f"Set {LOW} to {bound:g} or less as well, or unset {named}."
        return [*problems, Problem(named, texts.get(named, ""), what, fix, "error")]
    if high == 0.0 and HIGH in texts and _is_number(texts[HIGH]):
        what = f"{HIGH}=0 removes the limit of MPS memory: macOS may swap or end programs."
        problems.append(Problem(HIGH, texts[HIGH], what, "Prefer 1.0, with the low ratio at or below it."))
    return problems


def _is_number(text: str) -> bool:
    try:
        return not math.isnan(float(text))
    except ValueError:
        return False


def _not_a_ratio(name: str, text: str) -> Problem:
    read = strtod(text)
    effect = " = no limit" if read == 0.0 and name == HIGH else ""
    what = f"{name}={text!r} is not a number: torch reads {read:g}{effect}."
    return Problem(name, text, what, "Write a decimal number with a point, such as 0.9.")


def _looks_like_ours(name: str, known: Mapping[str, Variable]) -> bool:
    upper = name.upper()
    if name in known or upper.startswith("PYTORCH_TEST"):
        return False
    return upper.startswith(("PYTORCH_", "TORCH_", "ENABLE_")) and "MPS" in upper.split("_")


def _unknown(name: str, value: str, known: Mapping[str, Variable]) -> Problem:
    close = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.6)
    fix = f"Did you mean {close[0]}?" if close else "Unset it."
    return Problem(name, value, f"torch reads no variable called {name}: it has no effect.", fix)
