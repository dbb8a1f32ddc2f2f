"""The rules, read from `data/rules.toml`, and the lists of codes that users write."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import msgspec

from mpsprobe import toml
from mpsprobe.errors import UsageError
from mpsprobe.scan.finding import Severity

DATA = Path(__file__).parent / "data"


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of hazard.

    Attributes:
        code: `MPS` and three digits, the first of which is its group. Never reused.
        name: kebab-case.
        severity: the worst that it can be.
        title: what is found.
        why: what happens on a Mac.
        mend: what to do.
        links: sources.
    """

    code: str
    name: str
    severity: Severity
    title: str
    why: str
    mend: str
    links: tuple[str, ...]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rule: tuple[Rule, ...]


@lru_cache(maxsize=1)
def all_rules() -> dict[str, Rule]:
    """Every rule by its code, in the order of the codes."""
    return {rule.code: rule for rule in toml.load(DATA / "rules.toml", _File).rule}


def chosen(select: Iterable[str] = (), ignore: Iterable[str] = ()) -> frozenset[str]:
    """Codes that are on: those selected (all when none is), without those ignored.

    Args:
        select: codes (`MPS101`), groups (`MPS1`), names (`cuda-device`), or several with commas between.
        ignore: likewise.

    Raises:
        UsageError: one fits no rule.
    """
    selected = _expand(select) or frozenset(all_rules())
    return selected - _expand(ignore)


def _expand(texts: Iterable[str]) -> frozenset[str]:
    codes: set[str] = set()
    for text in (part.strip() for whole in texts for part in whole.split(",")):
        if not text:
            continue
        fits = {
            rule.code
            for rule in all_rules().values()
            if rule.name == text.lower()
            or (re.fullmatch(r"MPS\d{0,3}", text.upper()) and rule.code.startswith(text.upper()))
        }
        if not fits:
            raise UsageError(f"{text!r} is no rule.", "`mpsprobe scan --rules` lists them.")
        codes |= fits
    return frozenset(codes)
