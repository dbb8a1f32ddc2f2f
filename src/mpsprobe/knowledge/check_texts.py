"""Texts of the checks in PyTorch's MPS sources: whose fault each is, which op has it, and in which releases.

Data: `data/check_texts.json`, written by `tools/op_support/check_texts.py` from the macOS wheels of each release. They
are what `error_texts` falls back on where no hand-written message tells a text: they say less, but of every check.
"""

from __future__ import annotations

import re
from functools import cached_property, lru_cache
from pathlib import Path

import msgspec

#: What a text says that refuses something which other devices take.
_REFUSES = re.compile(
    r"support|implement|only (?:works|available|for)|MPS doesn.t|[Mm]ac ?OS|limit|exceed|larger than|too large"
    r"|2\*\*|2\^",
)

#: What stands before a message: the name of the exception.
_BEGINS = r"(?:Error|Warning|Exception): "


class CheckText(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, dict=True):
    """One text of a check, or the longest fixed piece of one that quotes values.

    Attributes:
        text: The string as the wheels hold it.
        file: The source file that holds it in the newest of those releases, relative to PyTorch's root.
        first, last: minor releases, the oldest and the newest whose wheel holds it.
        ops: The ops whose kernels raise it; empty where the function is not named after an op, or many ops share
            it.
        every_device: Whether code outside the MPS sources refers to the same string, so that the CPU checks it,
            too.
    """

    text: str
    file: str
    first: str
    last: str
    ops: tuple[str, ...] = ()
    every_device: bool = False

    @property
    def refuses(self) -> bool:
        """Whether the text words a limit of MPS, rather than what the arguments must be."""
        return not self.every_device and bool(_REFUSES.search(self.text))

    @cached_property
    def telling(self) -> bool:
        """Whether no other text is likely to hold it: not a scrap of a sentence, such as ` while other has size `."""
        return "MPS" in self.text or "mps" in self.text or len(self.flat.split()) >= 4 or len(self.flat) >= 30

    @cached_property
    def flat(self) -> str:
        """The text with single blanks."""
        return " ".join(self.text.split())


@lru_cache(maxsize=1)
def load_all() -> tuple[CheckText, ...]:
    """Return all texts, ordered by file."""
    data = (Path(__file__).parent / "data" / "check_texts.json").read_bytes()
    return msgspec.json.decode(data, type=tuple[CheckText, ...])


def among(flat: str) -> list[CheckText]:
    """Return the texts that `flat` (white space as single blanks) holds, without those that are a part of another.

    A short one counts where the message begins with it (`RuntimeError: Invalid memory format`).
    """
    found = [
        check
        for check in load_all()
        if check.flat in flat and (check.telling or re.search(_BEGINS + re.escape(check.flat), flat))
    ]
    return [check for check in found if not any(_is_part(check, other) for other in found)]


def _is_part(check: CheckText, other: CheckText) -> bool:
    return len(check.flat) < len(other.flat) and check.flat in other.flat
