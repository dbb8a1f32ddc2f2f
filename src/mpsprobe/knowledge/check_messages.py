"""Explain the texts of checks in PyTorch's MPS sources where the hand-written catalogue of messages has no entry.

The catalogue of `error_texts` says what a text is about and what was done about it. A check's text only shows
whether every device has that check or only MPS, which op raises it and which releases have it: less, but for every
check.

Data: `data/check_texts.json`, written by `tools/op_support/check_texts.py` from the macOS wheels of each release.
"""

from __future__ import annotations

import re
from functools import cache, cached_property, lru_cache
from pathlib import Path

import msgspec

from mpsprobe.knowledge import ops
from mpsprobe.knowledge.error_texts import Cause, Message, TextMatch, flexible, letter_runs, runs_of

#: The words of a text that refuses what other devices accept.
_REFUSES = re.compile(
    r"support|implement|only (?:works|available|for)|MPS doesn.t|[Mm]ac ?OS|limit|exceed|larger than|too large"
    r"|2\*\*|2\^",
)

#: The end of an exception's name, which comes before its message.
_BEGINNING = r"(?:Error|Warning|Exception): "


class CheckText(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, dict=True):
    """One text of a check, or the longest fixed piece of one that quotes values.

    Attributes:
        text: The string as the wheels hold it.
        file: The source file that holds it in the newest of those releases, relative to PyTorch's root.
        first, last: The oldest and the newest minor release whose wheel holds it.
        ops: The ops whose kernels raise it; empty where the function that raises it has not the name of an op, or
            where many ops share it.
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
        """Return whether the text states a limit that only MPS has, rather than what the arguments must be."""
        return not self.every_device and bool(_REFUSES.search(self.text))

    @cached_property
    def telling(self) -> bool:
        """Return whether the text is specific: it names MPS, or has 4 words or 30 characters."""
        return "MPS" in self.text or "mps" in self.text or len(self.flat.split()) >= 4 or len(self.flat) >= 30

    @cached_property
    def runs(self) -> tuple[str, ...]:
        """Return the runs of letters in the text, which every message that contains it has."""
        return runs_of(self.text)

    @cached_property
    def flat(self) -> str:
        """Return the text with each run of blanks replaced by one space."""
        return " ".join(self.text.split())


@lru_cache(maxsize=1)
def load_all() -> tuple[CheckText, ...]:
    """Return the texts of every check in PyTorch's MPS sources, ordered by file."""
    data = (Path(__file__).parent / "data" / "check_texts.json").read_bytes()
    return msgspec.json.decode(data, type=tuple[CheckText, ...])


def among(flat: str) -> list[CheckText]:
    """Return the texts that a message contains, without those that are a part of another one of them.

    A text that is not specific (see `CheckText.telling`) counts only directly after the name of an exception
    (`RuntimeError: Invalid memory format`).

    Args:
        flat: The message, with each run of white space replaced by one space.
    """
    runs = letter_runs(flat)
    found = [
        check
        for check in load_all()
        if all(run in runs for run in check.runs)
        and check.flat in flat
        and (check.telling or re.search(_BEGINNING + re.escape(check.flat), flat))
    ]
    return [check for check in found if not any(_is_part(check, other) for other in found)]


def _is_part(check: CheckText, other: CheckText) -> bool:
    return len(check.flat) < len(other.flat) and check.flat in other.flat


#: Ids of the findings that are made here.
EVERY_DEVICE, LIMIT, KERNEL = "check-of-every-device", "limit-of-mps-kernel", "check-of-mps-kernel"

#: Lines that report an error or warning, so that a match in them is not just a sentence of the user's.
_RAISED = re.compile(
    r"Error|Warning|Exception|\b(?:terminating|failed|Expected|MPS)\b|^\s*[\w.]+(?:\(\))?:", re.IGNORECASE
)
#: Words of a line that is about another backend than MPS.
_OTHER_BACKEND = re.compile(
    r"\b(?:XPU|XLA|HPU|NPU|IPU|Vulkan|HIP|CUDA|cuda|xpu|xla|vulkan)(?: |:\d )?(?:device|backend|tensor)"
)
#: The beginning of a line whose exception PyTorch's checks do not raise, or of any program's error.
_NOT_OF_A_CHECK = re.compile(
    r"^\s*(?:(?:[\w.]+\.)?(?:ValueError|TypeError|AssertionError|KeyError|ImportError|OSError)|[Ee]rror|ERROR)\b: "
)
#: A shorter text is too common to be recognised in such a line.
_COMMON = 40
_BEGINS = re.compile(r"\w*(?:Error|Exception|Warning)\b: ")
#: Findings that are this many characters apart, or more, belong to two messages.
_NEAR = 500
_DTYPE = re.compile(
    r"d?type|float|half|int(?:eger|egral|\d+)|long|complex|bool|double|BFloat16|non-float", re.IGNORECASE
)
_SIZE = re.compile(r"dim|rank|size|elements|2\*\*|2\^|INT_MAX|\bk\b|axis|shape|threads", re.IGNORECASE)


def with_checks(text: str, found: list[TextMatch]) -> list[TextMatch]:
    """Add the messages of PyTorch's checks in `text` to those that the catalogue found there.

    Args:
        text: The plain text that `find` searched.
        found: The findings of the catalogue, in order. A generic one is dropped where a check belongs to the same
            message; a specific one keeps checks of that message out.

    Returns:
        The findings of both, in the order of the text.
    """
    specific = [hit for hit in found if not hit.message.generic]
    added: list[TextMatch] = []
    for check in among(" ".join(text.split())):
        match = re.search(flexible(re.escape(check.flat).replace("\\ ", " ")), text)
        line = "" if match is None else _line(text, match.start())
        if match is None or not _RAISED.search(line):
            continue
        if len(check.flat) < _COMMON and _NOT_OF_A_CHECK.match(line):
            continue
        if _OTHER_BACKEND.search(line) and not re.search("mps|metal", line, re.IGNORECASE):
            continue
        hit = TextMatch(_message(check), match.start(), match.end(), {}, (check.first, check.last))
        if any(_one_message(hit, other, text) for other in specific):
            continue
        rival = next((other for other in added if _one_message(hit, other, text)), None)
        if rival is None:
            added.append(hit)
        elif rival.end - rival.start < hit.end - hit.start:
            added[added.index(rival)] = hit
    kept = [
        hit
        for hit in found
        if not (hit.message.generic and any(_one_message(hit, new, text) for new in added))
    ]
    return sorted([*kept, *added], key=lambda hit: hit.start)


def _one_message(one: TextMatch, other: TextMatch, text: str) -> bool:
    """Return whether two findings belong to one message: they are near, and no exception begins between them."""
    first, second = sorted((one, other), key=lambda hit: hit.start)
    return second.start - first.end < _NEAR and not _BEGINS.search(text, first.end, second.start)


def _line(text: str, at: int) -> str:
    end = text.find("\n", at)
    return text[text.rfind("\n", 0, at) + 1 : end if end >= 0 else len(text)]


@cache
def _message(check: CheckText) -> Message:
    kind = EVERY_DEVICE if check.every_device else LIMIT if check.refuses else KERNEL
    return Message(
        id=kind,
        cause=_cause(check),
        pattern=re.escape(check.flat),
        anchors=(check.flat,),
        means=_means(check),
        fix=_fix(check),
        fallback="" if check.every_device else "no",
        texts=((check.text, check.first, check.last),),
        reworded=True,
        ops=check.ops[:1] if len(check.ops) == 1 else (),
    )


def _cause(check: CheckText) -> Cause:
    if not check.refuses:
        return Cause.ARGUMENTS
    if _DTYPE.search(check.text):
        return Cause.DTYPE
    return Cause.RANK_OR_SIZE if _SIZE.search(check.text) else Cause.UNSUPPORTED_ARGUMENT


def _means(check: CheckText) -> str:
    where = f"{' and '.join(check.ops)}, {check.file}" if check.ops else check.file
    if check.every_device:
        return (
            f"PyTorch's own check of the arguments ({where}). Its code for other devices has the same one: the "
            "call is refused everywhere, and MPS is not to blame."
        )
    if check.refuses:
        return (
            f"MPS's kernel refuses it ({where}). PyTorch's code for other devices does not have this text: a limit of "
            f"MPS in torch {_range(check)}."
        )
    return (
        f"The MPS kernel checks its arguments ({where}). The text is in the MPS sources only: other devices check it "
        "in other words, or not at all."
    )


def _fix(check: CheckText) -> str:
    cpu = "run that op on the CPU (move its inputs with .cpu(), and the result back with .to('mps'))"
    if check.every_device:
        return "Correct what the text names (size, dtype or argument); the same call on the CPU raises it at the line."
    if not check.refuses:
        return f"Give it what the text asks for. If the same call works on the CPU, {cpu}."
    cast = ""
    if "omplex" in check.text:
        cast = "work on real and imaginary parts (torch.view_as_real), or "
    elif _cause(check) is Cause.DTYPE:
        cast = "cast its inputs to a dtype that it takes (float32), or "
    later = _after(check.last)
    if later:
        return f"torch {later} and newer no longer have this text: try them first. Or {cast}{cpu}."
    return f"The newest release still has it. {(cast + cpu)[0].upper()}{(cast + cpu)[1:]}."


def _range(check: CheckText) -> str:
    return check.first if check.first == check.last else f"{check.first} to {check.last}"


def _after(release: str) -> str:
    later = ops.releases()[ops.releases().index(release) + 1 :]
    return later[0] if later else ""
