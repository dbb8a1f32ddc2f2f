import html

import pytest

from mpsprobe.report import templating


def test_clean_drops_colours_and_what_xml_cannot_hold() -> None:
    assert templating.clean("\x1b[31mred\x1b[0m \x00\x0b \ufffe\ud800 tab\tend\n") == (
        "red \ufffd\ufffd \ufffd\ufffd tab\tend\n"
    )


def test_tail_says_how_much_it_left_out() -> None:
    assert templating.tail("a\nb\nc\n", 2) == "... 1 line left out\nb\nc"
    assert templating.tail("a\nb", 2) == "a\nb"


def test_prose_becomes_code_and_links_and_nothing_else() -> None:
    shown = templating.prose_html("run `a<b` <script> see https://a.example/x_y?q=1&r=2. javascript:alert(1)")
    assert shown == (
        "run <code>a&lt;b</code> &lt;script&gt; see "
        '<a href="https://a.example/x_y?q=1&amp;r=2" rel="noreferrer">https://a.example/x_y?q=1&amp;r=2</a>. '
        "javascript:alert(1)"
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("needs <1.0, >=0.34", "needs <1.0, >=0.34"),
        ("self_attn is fine, _this_ is not", r"self_attn is fine, \_this\_ is not"),
        ("<b>bold</b> *x* [a](b) a|b $x$ ~y~", r"\<b>bold\</b> \*x\* \[a](b) a\|b \$x\$ \~y\~"),
        ("# not a heading", r"\# not a heading"),
        ("> not a quote", r"\> not a quote"),
        ("- not a list", r"\- not a list"),
        ("1. not a list", r"1\. not a list"),
        ("&lt; stays", "&amp;lt; stays"),
        ("by @someone in #12", "by @<!-- -->someone in #<!-- -->12"),
        ("two\nlines", "two lines"),
        ("see https://a.example/b_c*d.", "see <https://a.example/b_c*d>."),
        ("run `x|y`", "run <code>x&#124;y</code>"),
        ("run `x*y`", "run `x*y`"),
        ("C:\\new", r"C:\\new"),
    ],
)
def test_markdown_prints_a_message_as_it_is(given: str, expected: str) -> None:
    assert templating.prose_markdown(given) == expected


def test_code_with_backticks_or_pipes_survives_a_table_cell() -> None:
    shown = templating.code_markdown("a`b|c<d>*")
    assert "|" not in shown
    assert html.unescape(shown) == "<code>a`b|c<d>*</code>"
    assert templating.code_markdown("") == ""


def test_a_fence_is_longer_than_any_run_of_backticks_inside() -> None:
    assert templating.fence_markdown("a\n````\nb").split("\n")[0] == "`````text"
    assert templating.fence_markdown("a").split("\n") == ["```text", "a", "```"]


def test_no_line_ends_in_an_option_or_a_line_number() -> None:
    text = str(
        templating.prose_html(
            "see `mpsprobe run --device mps` at transformers/models/modeling_llama.py:397, <b>"
        )
    )
    assert '<span class="whole">--device</span> mps</code>' in text
    assert 'transformers/<wbr>models/<wbr><span class="whole">modeling_llama.py:397</span>, &lt;b&gt;' in text
