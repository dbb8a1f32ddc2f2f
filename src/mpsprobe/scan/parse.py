"""One source file: its text, its syntax tree, and the lines on which a user silenced a rule."""

from __future__ import annotations

import ast
import io
import re
import stat
import tokenize
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mpsprobe.scan.finding import Unreadable

#: Larger files are data, or made by a tool: the largest module of transformers has 400 kB.
MAX_BYTES = 20_000_000
_NOQA = re.compile(r"#\s*noqa\s*:\s*(?P<codes>[A-Z][A-Z0-9]+(?:[\s,]+[A-Z][A-Z0-9]+)*)", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """A file that parsed.

    Attributes:
        path: as it is shown.
        text: decoded as Python decodes it.
        tree: its syntax tree.
    """

    path: str
    text: str
    tree: ast.Module

    @cached_property
    def lines(self) -> list[str]:
        """Its lines as Python counts them."""
        return io.StringIO(self.text, newline=None).read().split("\n")

    @cached_property
    def noqa(self) -> dict[int, frozenset[str]]:
        """Line -> codes that a `# noqa: MPSnnn` comment on it names. A bare `# noqa` is other tools'."""
        if _NOQA.search(self.text) is None:  # reading the tokens takes as long as parsing
            return {}
        found: dict[int, frozenset[str]] = {}
        try:
            for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
                match = _NOQA.search(token.string) if token.type == tokenize.COMMENT else None
                if match:
                    found[token.start[0]] = frozenset(re.split(r"[\s,]+", match["codes"].upper()))
        except (tokenize.TokenError, SyntaxError):  # ast was content: what was read so far counts
            pass
        return found


def read(path: Path, shown: str) -> Source | Unreadable:
    """Read and parse one file; whatever is wrong with it comes back as one line, and nothing is raised."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            return Unreadable(shown, "not a regular file")
        if about.st_size > MAX_BYTES:
            return Unreadable(shown, f"larger than {MAX_BYTES // 1_000_000} MB: not read")
        data = path.read_bytes()
    except OSError as problem:
        return Unreadable(shown, f"cannot be read: {problem.strerror or problem}")
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in the scanned file are not our warnings
            tree = ast.parse(text, filename=shown)
    except SyntaxError as problem:
        return Unreadable(shown, f"not valid Python here: {problem.msg}", problem.lineno)
    except UnicodeDecodeError as problem:
        return Unreadable(shown, f"not {problem.encoding} text (byte {problem.start})")
    except (ValueError, LookupError) as problem:  # null bytes; an encoding that Python does not have
        return Unreadable(shown, str(problem))
    except (RecursionError, MemoryError):
        return Unreadable(shown, "nested too deeply to be parsed")
    return Source(shown, text, tree)
