"""Convert a pasted log to plain text without colours, boxes and quote marks, and find the stack frames in it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

import msgspec

_ANSI = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_BOX = re.compile(r"[\u2500-\u259f\u2800-\u28ff]")
_QUOTE_MARK = re.compile(r"^[ \t]*(?:(?:>|\|)[ \t]?)+", re.MULTILINE)
_PYTEST_MARK = re.compile(r"^E {2,}", re.MULTILINE)
_PLAIN = str.maketrans(
    {
        "\u2018": "'",
        "\u2019": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u00a0": " ",
        "\u200b": None,
        "\ufeff": None,
    }
)

_FRAMES = (
    # Python: File "/x/y.py", line 3, in f, and the code on the next line
    re.compile(
        r'^[ \t]*File "(?P<path>[^"\n]+)", line (?P<line>\d+)(?:,? in (?P<function>[^\n]+))?'
        r"(?:\n[ \t]+(?![ \t]*File \")(?P<code>[^\s^~][^\n]*))?",
        re.MULTILINE,
    ),
    # IPython: File ~/x/y.py:3, in f(...)  and  Cell In[2], line 3, in f(...)
    re.compile(
        r"^[ \t]*(?:File )?(?P<path>[~/.][^\s:()]*\.py):(?P<line>\d+),? in (?P<function>[\w.<>]+)",
        re.MULTILINE,
    ),
    re.compile(
        r"^[ \t]*(?P<path>(?:Cell|Input) In ?\[\d+\]),? line (?P<line>\d+)(?:, in (?P<function>[\w.<>]+))?",
        re.MULTILINE,
    ),
    # a warning: /x/y.py:3: UserWarning: ..., and pytest: tests/test_y.py:3: NotImplementedError
    re.compile(
        r"^[ \t]*(?P<path>[^\s:\"']+\.py):(?P<line>\d+): (?:in (?P<function>\w+)|\w*(?:Warning|Error)\b)",
        re.MULTILINE,
    ),
)
_ARROW = re.compile(r"^-+> ?\d+[ \t]+(?P<code>[^\n]+)", re.MULTILINE)

#: Paths of the interpreter and of installed packages. Code in the Hugging Face module cache is the model's
#: own, so it counts as the user's.
_LIBRARY = re.compile(
    r"site-packages|dist-packages|/lib/python\d|/Python\.framework/|<frozen|<string>|<__array_function__|^importlib"
)

#: A stack more than this many characters away does not belong to the error.
_REACH = 20_000


class Frame(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One frame of a stack.

    Attributes:
        path: The file, or `Cell In[2]` of a notebook.
        line: The line number, from 1.
        function: The name of the function; empty where it is not shown.
        code: The source line; empty where it is not shown.
    """

    path: str
    line: int
    function: str = ""
    code: str = ""

    @property
    def is_library(self) -> bool:
        """Return whether the frame belongs to an installed package or to Python itself."""
        return bool(_LIBRARY.search(self.path))


def plain(text: str) -> str:
    """Return the text without terminal colours, box drawing, quote marks, HTML entities and progress-bar returns."""
    text = _ANSI.sub("", text).translate(_PLAIN)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\\n" in text:  # a JSON log, or repr() of an exception
        text = text.replace("\\n", "\n")
    text = text.replace("\\'", "'").replace('\\"', '"')
    if "&" in text:
        text = html.unescape(text)
    text = _BOX.sub(" ", text)
    text = _QUOTE_MARK.sub("", text)
    return _PYTEST_MARK.sub("", text)


def frames_before(text: str, end: int) -> list[Frame]:
    """Return the stack above position `end`, outermost first: the frames since the last `Traceback`.

    Args:
        text: The text as `plain` returns it.
        end: The position where the message begins.
    """
    begin = max(0, end - _REACH)
    traceback = text.rfind("Traceback (most recent call last)", begin, end)
    if traceback >= 0:
        begin = traceback
    line_end = text.find("\n", end)
    window = text[begin : line_end if line_end >= 0 else len(text)]
    return [frame for _, frame in sorted(_frames(window), key=lambda pair: pair[0])]


def frames_after(text: str, start: int) -> list[Frame]:
    """Return the stack that faulthandler prints below a crash, outermost first.

    Args:
        text: The text as `plain` returns it.
        start: The position where the message ends.
    """
    begin = text.find("(most recent call first)", start, start + _REACH)
    if begin < 0:
        return []
    end = text.find("\n\n", begin)
    window = text[begin : end if end >= 0 else len(text)]
    return [frame for _, frame in sorted(_frames(window), key=lambda pair: -pair[0])]


def user_frame(frames: list[Frame]) -> Frame | None:
    """Return the innermost frame of the user's own code."""
    return next((frame for frame in reversed(frames) if not frame.is_library), None)


def _frames(window: str) -> Iterator[tuple[int, Frame]]:
    seen: set[tuple[str, str]] = set()
    for pattern in _FRAMES:
        for match in pattern.finditer(window):
            groups = match.groupdict()
            key = (match["path"], match["line"])
            if key in seen:
                continue
            seen.add(key)
            code = (groups.get("code") or "").strip()
            if not code:
                arrow = _ARROW.search(window, match.end(), match.end() + 2000)
                code = arrow["code"].strip() if arrow else ""
            function = (groups.get("function") or "").strip()
            yield match.start(), Frame(match["path"], int(match["line"]), function, code)
