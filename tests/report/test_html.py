"""The page as a browser and a screen reader take it."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser

import pytest

from mpsprobe.report import render
from mpsprobe.report.templating import TEMPLATES
from mpsprobe.run import Evidence
from tests.report import example_runs as examples

_VOID = {"meta", "link", "br", "img", "input", "hr", "wbr"}


class Page(HTMLParser):
    """Checks nesting, and collects elements, ids, links and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] not in ("style", "script"):
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture(params=examples.ALL, ids=str)
def page(request: pytest.FixtureRequest) -> Page:
    return Page(render(examples.ALL[request.param](), "html"))


def test_ids_are_unique_and_links_lead_somewhere(page: Page) -> None:
    ids = Counter(attributes["id"] for _, attributes in page.attributes if "id" in attributes)
    assert [name for name, count in ids.items() if count > 1] == []
    for tag, attributes in page.attributes:
        for name in ("href", "aria-labelledby"):
            if (value := attributes.get(name, "")).startswith("#") or (name == "aria-labelledby" and value):
                assert value.removeprefix("#") in ids, (tag, value)


def test_nothing_is_loaded_and_only_our_script_runs(page: Page) -> None:
    assert page.tags["img"] == page.tags["link"] == page.tags["iframe"] == 0
    assert page.tags["script"] == 1
    assert ("script", {}) in page.attributes
    for _, attributes in page.attributes:
        assert not any(name.startswith("on") or name in ("src", "srcset", "style") for name in attributes)
        assert not attributes.get("href", "").startswith(("data:", "javascript:"))


def test_landmarks_and_tables_are_labelled(page: Page) -> None:
    assert page.tags["main"] == page.tags["nav"] == page.tags["footer"] == page.tags["h1"] == 1
    for tag, attributes in page.attributes:
        if tag == "section":
            assert "aria-labelledby" in attributes or "aria-label" in attributes
        if tag == "th":
            assert attributes["scope"] in ("col", "row")
    assert page.tags["table"] == page.tags["caption"]


def test_the_stylesheet_loads_nothing() -> None:
    css = (TEMPLATES / "report.css").read_text()
    assert "url(" not in css
    assert "@import" not in css


def test_output_of_the_target_cannot_become_markup() -> None:
    run = examples.crashed()
    run.target.name = 'x"><script>alert(1)</script>'
    run.host.packages = {"<b>": '"><img src=x onerror=alert(1)>'}
    run.id = "'\"><svg onload=alert(1)>"
    run.checks[0].id = '"><script>alert(2)</script>'
    text = render(run, "html")
    page = Page(text)
    assert page.tags["script"] == text.count("<script") == 1  # the page's own
    assert page.tags["img"] == 0
    assert (TEMPLATES / "report.js").read_text() in text
    assert 'alert("not markup")' in page.words


def test_status_is_never_told_by_colour_alone() -> None:
    page = Page(render(examples.emulated(), "html"))
    spans = [
        a["class"] for tag, a in page.attributes if tag == "span" and a.get("class", "").startswith("status ")
    ]
    icons = [a["href"] for tag, a in page.attributes if tag == "use"]
    assert len(spans) > 30
    assert len(icons) >= len(spans)
    text = render(examples.emulated(), "html")
    for word in re.findall(r'<span class="status [a-z]+">.*?</svg>(.*?)</span>', text):
        assert word.strip()


def test_evidence_and_device_stand_beside_every_number() -> None:
    text = render(examples.passed("cpu", Evidence.MEASURED), "html")
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</th>(.*?)</tr>", text)
    assert len(rows) == 10
    for name, cells in rows:
        assert 'class="evidence' in cells, name
        assert re.search(r"<code>(cpu|host)</code>", cells), name


def test_a_crash_is_told_before_the_phases() -> None:
    words = Page(render(examples.crashed(), "html")).words
    assert words.index("The process died") < words.index("availability")
    head = words[: words.index("1 availability")]
    for fact in ("SIGABRT", "transfer.placement", "failed assertion"):
        assert fact in head
    assert words.count("failed assertion") == 1
    assert words.count("not reached") == 2


def test_failures_stand_before_the_phases_with_their_remedy() -> None:
    words = Page(render(examples.pins_failed(), "html")).words
    assert words.index("What to do") < words.index("Failed checks") < words.index("Phase 1 (availability)")
    assert (
        words.count("does not satisfy <1.0") <= 2
    )  # the banner and its card, not each of eight blocked checks


# Contrast of text, after https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio


def _palettes() -> dict[str, dict[str, str]]:
    css = (TEMPLATES / "report.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block)) for block in blocks[:2])
    return {"light": light, "dark": dark}


def _luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_the_contrast_of_wcag_aa(theme: str) -> None:
    palette = _palettes()[theme]
    tones = ["pass", "warn", "fail", "error", "quiet"]
    pairs = [(ink, ground) for ink in ("ink", "soft") for ground in ("paper", "sheet", "well")]
    pairs += [(tone, ground) for tone in (*tones, "link", "evidence") for ground in ("sheet", "well")]
    pairs += [(tone, f"{tone}-tint") for tone in tones]
    pairs += [("ink", f"{tone}-tint") for tone in tones] + [("soft", f"{tone}-tint") for tone in tones]
    for ink, ground in pairs:
        a, b = sorted((_luminance(palette[ink]), _luminance(palette[ground])))
        assert (b + 0.05) / (a + 0.05) >= 4.5, (ink, ground)


def test_a_printed_page_has_the_limits_and_the_way_to_repeat() -> None:
    text = render(examples.emulated(), "html")
    assert '<details class="printed"><summary><h2 id="limits">' in text
    assert '<details class="printed"><summary><h2 id="repeat">' in text
    script = (TEMPLATES / "report.js").read_text()
    assert "beforeprint" in script
    assert "details.printed" in script
    assert "details:not([open])" in (TEMPLATES / "report.css").read_text().partition("@media print")[2]
