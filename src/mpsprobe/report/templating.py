"""Load the templates, and escape text from elsewhere for the format that it is printed in."""

from __future__ import annotations

import html
import re
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from mpsprobe.quantities import plural, printable

_SPAN = re.compile(r"(`[^`\n]+`)|(https?://[^\s<>\"'`|]+[^\s<>\"'`|.,;:!?)\]])")
#: A place in source code, `models/llama.py:397`, or in a model, `model.layers.0.self_attn`.
_PLACE = re.compile(r"([\w./-]+\.py:\d+|[A-Za-z_]\w*(?:\.(?:\w+|\*)){3,})")
#: The number of letters of a file name that fit into one line of a narrow window.
_LONG = 32
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])")
#: Everything outside the Char production of XML 1.0 (https://www.w3.org/TR/xml/#charsets).
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
#: What GitHub would read as markup: escapes, emphasis, links, tables, math, tags, entities, mentions, lists.
_MARKDOWN = re.compile(
    r"([\\`*\[|~$]|(?<!\w)_|_(?!\w)|<(?=[A-Za-z/!?])|^[>#](?=.))"
    r"|&(?=#?\w+;)|(?<!\w)([@#])(?=\w)|^([-+=]|\d+[.)])(?=\s|$)"
)


def clean(text: str) -> str:
    """Remove terminal colours, and replace each character that XML 1.0 does not allow by U+FFFD."""
    return _NOT_XML.sub("\ufffd", _ANSI.sub("", text))


def tail(text: str, lines: int) -> str:
    """Return the last `lines` lines of an output, after a note on how many were left out."""
    kept = clean(text).rstrip().split("\n")
    if len(kept) <= lines:
        return "\n".join(kept)
    return "\n".join([f"... {plural(len(kept) - lines, 'line')} left out", *kept[-lines:]])


def prose_html(text: str) -> Markup:
    """Convert a message to HTML: escaped, with `backticked` parts as code and web addresses as links."""
    parts: list[Markup] = []
    end = 0
    for match in _SPAN.finditer(text):
        parts.append(_places_html(text[end : match.start()]))
        code, link = match.groups()
        if code:
            parts.append(Markup("<code>{}</code>").format(_places_html(code[1:-1])))
        else:
            parts.append(Markup('<a href="{0}" rel="noreferrer">{0}</a>').format(link))
        end = match.end()
    return Markup("").join([*parts, _places_html(text[end:])])


def _places_html(text: str) -> Markup:
    """Convert a text to HTML in which a path breaks behind its punctuation, and never inside its line number."""
    parts = re.split(_PLACE, text)
    return Markup("").join(
        _place_html(part) if at % 2 else command_html(part) for at, part in enumerate(parts)
    )


def _place_html(place: str) -> Markup:
    folders, slash, file = place.rpartition("/")
    if not slash and ":" not in place:  # the path of a module
        return Markup("<wbr>").join(map(escape, re.split(r"(?<=\.)", place)))
    whole = Markup('<span class="whole">{}</span>' if len(file) <= _LONG else "{}").format(file)
    return Markup("<wbr>").join([*(escape(f"{one}/") for one in folders.split("/") if slash), whole])


def breakable(text: str) -> Markup:
    """Convert a name to HTML in which a line may break after `/`, `.`, `_` and `:`."""
    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[/._:])(?=[^/._:])(?!\d+$)", text))


def command_html(text: str) -> Markup:
    """Convert commands to HTML in which no line ends inside the name of an option, such as `--device`."""
    parts = re.split(r"(?<!\S)(--?[A-Za-z][\w-]*)", text)
    whole = Markup('<span class="whole">{}</span>')
    return Markup("").join(whole.format(part) if at % 2 else escape(part) for at, part in enumerate(parts))


def prose_markdown(text: str) -> str:
    """Convert a message to one line of Markdown that is safe in paragraphs and in table cells."""
    line = " ".join(text.split())
    parts: list[str] = []
    end = 0
    for match in _SPAN.finditer(line):
        parts.append(_escape_markdown(line[end : match.start()]))
        code, link = match.groups()
        parts.append(code_markdown(code[1:-1]) if code else f"<{link}>")
        end = match.end()
    return "".join([*parts, _escape_markdown(line[end:])])


def code_markdown(text: str) -> str:
    """Format text as inline code for a paragraph or a table cell, in one line; empty for blank text."""
    line = " ".join(text.split())
    if not line:
        return ""
    if "`" in line or "|" in line:  # a pipe ends a table cell even inside backticks
        safe = re.sub(
            r"([\\`*_\[\]~$|])", lambda match: f"&#{ord(match[0])};", html.escape(line, quote=False)
        )
        return f"<code>{safe}</code>"
    return f"`{line}`"


def fence_markdown(text: str) -> str:
    """Format text as a fenced block that the text itself cannot close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _escape_markdown(text: str) -> str:
    def safe(match: re.Match[str]) -> str:
        special, mention, bullet = match.groups()
        if special:
            return f"\\{special}"
        if mention:  # no user or issue is meant; an empty comment keeps GitHub from linking
            return f"{mention}<!-- -->"
        if bullet:
            return f"{bullet[:-1]}\\{bullet[-1]}"
        return "&amp;"

    return _MARKDOWN.sub(safe, text)


TEMPLATES = Path(__file__).parent / "templates"


def fill(template: str, **values: Any) -> str:
    """Render a template with `values`; its file name (`.html.j2`, `.svg.j2`, `.md.j2`) determines the escaping."""
    environment = _markdown() if template.endswith(".md.j2") else _markup()
    # texts of a target may hold anything; what steers a terminal or hides text is never written raw
    return printable(environment.get_template(template).render(**values))


@cache
def _markup() -> jinja2.Environment:
    """Return the environment of HTML and SVG, in which everything is escaped."""
    environment = _environment(autoescape=True)
    environment.filters["prose"] = prose_html
    environment.filters["breakable"] = breakable
    environment.filters["command"] = command_html
    environment.globals["script"] = Markup((TEMPLATES / "report.js").read_text(encoding="utf-8"))
    environment.globals["css"] = Markup((TEMPLATES / "report.css").read_text(encoding="utf-8"))
    return environment


@cache
def _markdown() -> jinja2.Environment:
    """Return the environment of Markdown: values become one line of escaped prose unless printed as code."""
    environment = _environment(autoescape=False, finalize=_finalize)
    environment.filters["code"] = lambda text: _Ready(code_markdown(text))
    environment.filters["fence"] = lambda text: _Ready(fence_markdown(text))
    return environment


class _Ready(str):
    """Markdown that is already escaped."""


def _finalize(value: Any) -> Any:
    return value if isinstance(value, _Ready) else prose_markdown(str(value))


def _environment(**options: Any) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )
