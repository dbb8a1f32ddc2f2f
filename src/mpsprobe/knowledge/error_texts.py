"""The error and warning messages of MPS: their meaning, their fix, and the releases that have them.

The data is in `data/messages.toml` and the files beside it. `find` searches a text of any length for them;
`mpsprobe.knowledge.explain` adds facts from the op table, the environment rules and the advisories.
"""

from __future__ import annotations

import bisect
import enum
import re
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import msgspec

from mpsprobe import toml

#: Characters around an anchor in which a pattern is tried: more than the longest message with its commit hash.
_BEFORE, _AFTER = 600, 900

#: What a message says, where it is made from parts of the text: its meaning and its fix.
Advice = tuple[str, str]

#: Two messages within this many characters report one event (MPSGraph's line and LLVM's line after it).
_NEAR = 400


class Cause(str, enum.Enum):
    """What kind of problem causes a message."""

    MISSING_OP = "missing-op"
    FALLBACK = "fallback"
    DTYPE = "dtype"
    RANK_OR_SIZE = "rank-or-size"
    UNSUPPORTED_ARGUMENT = "unsupported-argument"
    PLACEHOLDER_STORAGE = "placeholder-storage"
    DEVICE_MISMATCH = "device-mismatch"
    WATERMARK = "watermark"
    OUT_OF_MEMORY = "out-of-memory"
    METAL_ASSERTION = "metal-assertion"
    LLVM = "llvm"
    COMMAND_BUFFER = "command-buffer"
    SHADER = "shader"
    CRASH = "crash"
    HANG = "hang"
    AUTOCAST = "autocast"
    NOT_AVAILABLE = "not-available"
    NOT_BUILT = "not-built"
    CUDA_ONLY = "cuda-only"
    COMPILE = "compile"
    NUMERICS = "numerics"
    THIRD_PARTY = "third-party"
    INSTALL = "install"
    INTERNAL = "internal"
    ARGUMENTS = "arguments"


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """One message of PyTorch or a library, or several with the same meaning.

    Attributes:
        id: A unique id in kebab-case.
        cause: The kind of cause.
        pattern: A regular expression; a blank outside a character class matches any white space.
        anchors: Literal pieces, of which every match contains one.
        means: What happened.
        fix: What to do.
        severity: `abort` (the process ends), `error` (an exception) or `warning`.
        fallback: Whether PYTORCH_ENABLE_MPS_FALLBACK=1 helps: `yes`, `no`, `op` (the op decides), `""` (not
            applicable).
        texts: (string, first wheel, last wheel) as found in PyTorch's macOS wheels.
        reworded: Whether newer wheels only word the message differently, so that the end of `texts` is not the end
            of the restriction.
        fixed: The first torch release without it, where `texts` does not show that.
        ops: The ops that it is about, where the text does not name them.
        dtypes: The dtypes that it is about, where the text does not name them.
        macos: The first macOS version in which it no longer occurs; empty when unknown.
        hides: The ids of less specific messages, which are dropped where they are found within 400 characters of
            this one.
        generic: Whether it is shown only where no other message explains the place.
        aftermath: Whether it says only that the process ended; it is shown only where nothing else says why.
        links: The sources.
    """

    id: str
    cause: Cause
    pattern: str
    anchors: tuple[str, ...]
    means: str
    fix: str
    severity: Literal["abort", "error", "warning"] = "error"
    fallback: Literal["yes", "no", "op", ""] = ""
    texts: tuple[tuple[str, str, str], ...] = ()
    reworded: bool = False
    fixed: str = ""
    ops: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    macos: str = ""
    hides: tuple[str, ...] = ()
    generic: bool = False
    aftermath: bool = False
    links: tuple[str, ...] = ()

    @cached_property
    def regex(self) -> re.Pattern[str]:
        return re.compile(flexible(self.pattern), re.DOTALL)

    @property
    def is_harmless_note(self) -> bool:
        """Return whether it is a harmless note of another program, which would contradict an error beside it."""
        harmless = self.fix.startswith(("Nothing must be done.", "Nothing must be done;"))
        return harmless and self.cause is Cause.THIRD_PARTY and self.severity == "warning"

    @cached_property
    def anchor_runs(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Return each anchor with its runs of letters, as `letter_runs` finds them in a text."""
        return tuple((anchor, runs_of(anchor)) for anchor in self.anchors)

    @cached_property
    def anchor_regex(self) -> re.Pattern[str]:
        return re.compile("|".join(flexible(re.escape(a).replace("\\ ", " ")) for a in self.anchors))


class TextMatch(msgspec.Struct, frozen=True):
    """A message that was recognised at one place of a text.

    Attributes:
        message: The message.
        start: The beginning of its place in the searched text.
        end: The end of its place in the searched text.
        values: Named parts of the text: `op`, `kernel`, `dtype`, `commit`, `size` and so on.
        wheels: The first and the last wheel that hold the string that matched; None when it is not one of `texts`.
    """

    message: Message
    start: int
    end: int
    values: dict[str, str]
    wheels: tuple[str, str] | None


#: PyTorch, Metal and MPSGraph; libraries; macOS; installation; models and their runners; code for CUDA; engines;
#: Apple's frameworks with Core ML, ExecuTorch and MLX.
_FILES = (
    "messages.toml",
    "messages_libraries.toml",
    "messages_macs.toml",
    "messages_install.toml",
    "messages_apps.toml",
    "messages_models.toml",
    "messages_cuda.toml",
    "messages_engines.toml",
    "messages_apple.toml",
)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    message: tuple[Message, ...]


@lru_cache(maxsize=1)
def messages() -> tuple[Message, ...]:
    """Return all messages, in the order of the data files."""
    data = Path(__file__).parent / "data"
    return tuple(message for name in _FILES for message in toml.load(data / name, _File).message)


def by_id(id_: str) -> Message:
    """Return the message of the catalogue with this id.

    Raises:
        KeyError: No message has that id. The ids of PyTorch's own checks (`check_messages`) stand for many texts, so
            no single message can be returned for one of them either.
    """
    return next((m for m in messages() if m.id == id_), None) or _no_message(id_)


def find(text: str) -> list[TextMatch]:
    """Return every known message in `text`, in order of position, without those that a better match hides."""
    flat, runs = " ".join(text.split()), letter_runs(text)
    found = [
        hit
        for message in messages()
        if any(all(run in runs for run in parts) and anchor in flat for anchor, parts in message.anchor_runs)
        for hit in _matches(message, text)
    ]
    found.sort(key=lambda hit: hit.start)
    starts = [hit.start for hit in found]
    kept = [hit for hit in found if not _explained(hit, _around(hit, found, starts), text)]
    return sorted(kept + _circular(found, kept), key=lambda hit: hit.start)


def _circular(found: list[TextMatch], kept: list[TextMatch]) -> list[TextMatch]:
    """Return the longest finding of each place whose findings hide one another in a circle, so that none was kept."""
    added: list[TextMatch] = []
    places = sorted((hit.start, hit.end) for hit in kept)
    longest = max((hit.end - hit.start for hit in found), default=0)
    for hit in sorted(found, key=lambda hit: (hit.message.generic, hit.start - hit.end, hit.start)):
        before = bisect.bisect_left(places, (hit.end + _NEAR,))
        first = bisect.bisect_right(places, (hit.start - _NEAR - longest,))
        if not any(hit.start < places[at][1] + _NEAR for at in range(before - 1, first - 1, -1)):
            added.append(hit)
            bisect.insort(places, (hit.start, hit.end))
    return added


#: A run of letters that is long enough to tell texts apart.
_RUN = re.compile(r"[A-Za-z]{3,}")

#: The number of characters that are read at a time, so that the runs of a large log do not lie in memory all at once.
_PIECE = 1 << 20


@lru_cache(maxsize=1)
def letter_runs(text: str) -> str:
    """Return the different runs of three letters or more in a text, one a line.

    A literal string can only be in the text when each of its own runs is a part of one of these. Thousands of
    strings are looked for in logs of many megabytes, whose runs are mostly a hundred times shorter.
    """
    runs: set[str] = set()
    start = 0
    while start < len(text):
        end = text.find("\n", start + _PIECE)
        end = len(text) if end < 0 else end
        runs.update(_RUN.findall(text, start, end))
        start = end
    return "\n".join(runs)


def runs_of(literal: str) -> tuple[str, ...]:
    """Return the runs of letters in a literal string, the longest first, because it is the rarest."""
    return tuple(sorted(set(_RUN.findall(literal)), key=len, reverse=True))


def _no_message(id_: str) -> Message:
    raise KeyError(id_)


def _matches(message: Message, text: str) -> Iterator[TextMatch]:
    """Yield the places of `text` that the message's pattern and one of its anchors match.

    Only what lies near anchors is searched, and anchors that are near each other are searched together: in a log of
    many errors that is one pass through the text, not one for each anchor.
    """
    anchors = [(anchor.start(), anchor.end()) for anchor in message.anchor_regex.finditer(text)]
    starts = [start for start, _ in anchors]
    first = 0
    while first < len(anchors):
        last = first
        while last + 1 < len(anchors) and starts[last + 1] - _BEFORE <= anchors[last][1] + _AFTER:
            last += 1
        for match in message.regex.finditer(text, max(0, starts[first] - _BEFORE), anchors[last][1] + _AFTER):
            inside = bisect.bisect_left(starts, match.start(), first, last + 1)
            if inside <= last and starts[inside] < match.end():
                yield TextMatch(message, match.start(), match.end(), _values(match), _wheels(message, match))
        first = last + 1


def _values(match: re.Match[str]) -> dict[str, str]:
    """Return the named groups that matched; `dtype2`, of another branch, is called `dtype` unless both matched."""
    values: dict[str, str] = {}
    for name, value in match.groupdict().items():
        if value is None:
            continue
        plain = name.rstrip("0123456789")
        values[plain if plain not in values else name] = " ".join(value.split())
    return values


def _wheels(message: Message, match: re.Match[str]) -> tuple[str, str] | None:
    """Return the first and last wheel that hold the string that matched; the longest match among `texts` decides."""
    around = " ".join(match.string[max(0, match.start() - 120) : match.end() + 320].split())
    fitting = [entry for entry in message.texts if " ".join(entry[0].split()) in around]
    if not fitting:
        return None
    _, first, last = max(fitting, key=lambda entry: len(entry[0]))
    return first, last


def _around(hit: TextMatch, found: list[TextMatch], starts: list[int]) -> list[TextMatch]:
    """Return the findings of other messages near `hit`; a log may hold ten thousand, too many to compare all pairs."""
    low = bisect.bisect_left(starts, hit.start - _BEFORE - _AFTER - _NEAR)
    high = bisect.bisect_right(starts, hit.end + _NEAR)
    return [other for other in found[low:high] if other.message is not hit.message]


def _explained(hit: TextMatch, found: list[TextMatch], text: str) -> bool:
    """Return whether another match hides this one, because it says more about the same place of the text."""
    for other in found:
        overlap = other.start < hit.end and hit.start < other.end
        near = overlap or 0 <= hit.start - other.end < _NEAR or 0 <= other.start - hit.end < _NEAR
        if near and hit.message.id in other.message.hides:
            return True
        one_line = _same_line(hit, other, text)
        same_cause = near and hit.message.cause is other.message.cause
        if hit.message.generic and not other.message.generic and (overlap or one_line or same_cause):
            return True
        if hit.message.generic == other.message.generic and (
            _says_more(other, hit) if overlap else same_cause and one_line and _is_reason(other, hit)
        ):
            return True
    return False


def _says_more(one: TextMatch, other: TextMatch) -> bool:
    """Return whether the first of two overlapping findings explains more of the text, so that the other can be dropped.

    One whose string is in the wheels comes first, then the longer one, then the one that begins earlier, unless the
    other finding hides it.
    """
    first, second = (
        (hit.wheels is not None, hit.end - hit.start, -hit.start, hit.message.id) for hit in (one, other)
    )
    return first > second and one.message.id not in other.message.hides


def _is_reason(one: TextMatch, other: TextMatch) -> bool:
    """Return whether the first of two findings of one line and cause is the reason: of what failed, it comes last."""
    first, second = (
        (hit.message.severity != "warning", hit.wheels is not None, hit.start) for hit in (one, other)
    )
    return first > second and one.message.id not in other.message.hides


def _same_line(one: TextMatch, other: TextMatch, text: str) -> bool:
    """Return whether two findings are in one line, with fewer than `_NEAR` characters between them."""
    first, second = sorted((one, other), key=lambda hit: hit.start)
    return second.start - first.end < _NEAR and "\n" not in text[first.end : second.start]


def flexible(pattern: str) -> str:
    r"""Return the pattern with `\s+` for each blank outside a character class, because pasted messages are wrapped."""
    out: list[str] = []
    in_class = escaped = False
    for char in pattern:
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == "[" and not in_class:
            in_class = True
        elif char == "]" and in_class:
            in_class = False
        elif char == " " and not in_class:
            out.append(r"\s+")
            continue
        elif char == "?" and out[-1:] == [r"\s+"]:  # an optional blank
            out[-1] = r"\s*"
            continue
        out.append(char)
    return "".join(out)
