"""Show of a pasted line the part that decides: its beginning, the reason at its end, and the names in between."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: The greatest length of the excerpt that a finding shows, of its part before the message, and of its end.
_EXCERPT, _LEAD, _TAIL = 360, 150, 150

#: Characters on either side of a message that are looked at for its excerpt.
_SURROUNDINGS = 1500

#: An absolute path, or one from the user's folder; between quote marks it may hold blanks.
_LONG_PATH = re.compile(
    r"(?<=')/[^'\n]{48,}(?=')"
    r"|(?<![\w:/.@~-])(?:~|\.{1,2})?/"
    r"(?:[^\s'\"(),:;<>|`]|(?<=Application) (?=Support/)|(?<=Mobile) (?=Documents/)){48,}"
)


#: What torch adds to the text of a missing op, after all that it says about it.
_REQUEST = " If you want this op to be "


def excerpt(text: str, start: int, end: int, names: Iterable[str] = ()) -> str:
    """Return a message with the rest of its first and last line, as one line that can be read at a glance.

    Long paths keep their end, and a line that is still too long its beginning, its end, where the reason stands, and
    the names that the answer speaks of. It begins and ends at whole words. A line that ends in a colon has the next
    one with it.

    Args:
        text: The text as `plain` returns it.
        start: The beginning of the message.
        end: Its end.
        names: Parts of the message that must stay.
    """
    first, last = text.rfind("\n", 0, start) + 1, text.find("\n", end)
    last = last if last >= 0 else len(text)
    if text[max(first, last - 9) : last].rstrip().endswith(":"):
        following = re.compile(r"\s*[^\n]{1,300}").match(text, last)
        last = following.end() if following else last
    begin, stop = max(first, start - _SURROUNDINGS), min(last, end + _SURROUNDINGS)
    marked = f"{text[begin:start]}\0{text[start:stop]}"
    joined = _LONG_PATH.sub(lambda path: _short_path(path[0]), " ".join(marked.split()))
    lead, _, rest = joined.rpartition("\0")
    if begin > first or len(lead) > _LEAD:
        lead = f"... {_from_word(lead, _LEAD).removeprefix('... ')}"
    whole = f"{lead}{rest}".partition(_REQUEST)[0]
    if len(whole) <= _EXCERPT:
        return whole if stop == last else f"{whole} ..."
    if stop < last:  # one line of a thousand characters: its end is far from the message
        return f"{_to_word(whole, _EXCERPT)} ..."
    parts = [_to_word(whole, _EXCERPT - _TAIL), _from_word(whole, _TAIL)]
    if len(parts[0]) + len(parts[1]) >= len(whole) - 1:
        return whole
    for name in names:
        at = whole.find(name, len(parts[0]))
        if name and at >= 0 and len(name) <= _LEAD and not any(name in part for part in parts):
            around = whole[at : at + len(name) + 30]
            parts.insert(-1, _to_word(around, len(name) + 29))
    return " ... ".join(parts).replace("... ...", "...")


def _short_path(path: str) -> str:
    """Return the end of a path: from `site-packages` on, else its last two parts."""
    parts = path.replace("\0", "").rstrip("/").split("/")
    inside = [at for at, part in enumerate(parts) if part in ("site-packages", "dist-packages")]
    tail = parts[inside[-1] :] if inside and inside[-1] < len(parts) - 1 else parts[-2:]
    if len("/".join(tail)) > 60 and len(tail) > 3:
        tail = [*tail[:2], "...", tail[-1]]
    short = re.sub(r"[0-9A-Fa-f]{24,}", lambda one: f"{one[0][:8]}...", "/".join(["...", *tail]))
    return ("\0" if "\0" in path else "") + short if len(short) < len(path) else path


def _to_word(text: str, most: int) -> str:
    """Return the beginning of a text, up to a whole word, in at most `most` characters."""
    blank = text.rfind(" ", 0, most + 1)
    return text if len(text) <= most else text[: blank if blank > 0 else most]


def _from_word(text: str, most: int) -> str:
    """Return the end of a text from a whole word on: at most `most` characters, or one word of up to twice as many."""
    blank = text.find(" ", max(len(text) - most - 1, 0), len(text) - 1)
    if blank < 0:
        blank = text.rfind(" ", max(len(text) - 2 * most, 0), len(text) - 1)
    return text if len(text) <= most else text[blank + 1 if blank >= 0 else -most :]
