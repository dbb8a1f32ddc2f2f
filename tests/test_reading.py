"""Files of others are read within bounds, and what people read holds no control characters."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsprobe import toml
from mpsprobe.errors import DataError, UsageError, first_line
from mpsprobe.quantities import printable, printable_json


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "nested too deep"),
        ('{"a":' * 80 + "1" + "}" * 80, "nested deeper than 64"),
        ('{"a": ' + "9" * 10_000 + "}", "not valid JSON"),
        (json.dumps({"a": 2**64}), "more than 64 bits"),
        (json.dumps({"x" * 5_000: 1}), "a name of 5,000 characters"),
        ("[]", "expected a JSON object"),
        ("{", "at line 1, column 2"),
    ],
)
def test_json_beyond_bounds_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        toml.json_object(path, UsageError)
    assert says in caught.value.what
    assert str(path) in caught.value.what
    assert "\n" not in caught.value.what


def test_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(DataError, match="is a pipe"):
        toml.read_bytes(tmp_path / "config.json")


def test_file_without_end_is_not_read() -> None:
    with pytest.raises(DataError, match="is a device"):
        toml.read_bytes(Path("/dev/zero"))


def test_too_large_a_file_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as file:
        file.truncate(2 * toml.MB)
    with pytest.raises(DataError, match="larger than 1 MB"):
        toml.read_bytes(tmp_path / "big", limit=toml.MB)


#: Bidirectional classes of the characters that turn text around (Unicode annex 9).
_TURNS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@given(st.text(alphabet=st.characters(min_codepoint=0, max_codepoint=0x2FFF)))
def test_printable_text_steers_no_terminal(text: str) -> None:
    shown = printable(text)
    # Cc: controls; Cs: surrogates; of the format characters (Cf) those that change the order of text
    assert all(one in "\n\t" or unicodedata.category(one) not in ("Cc", "Cs") for one in shown)
    assert not any(unicodedata.bidirectional(one) in _TURNS or one in "\u200e\u200f\u061c" for one in shown)
    assert printable(shown) == shown


@given(st.dictionaries(st.text(), st.text()))
def test_printable_json_holds_the_same(data: dict[str, str]) -> None:
    shown = printable_json(json.dumps(data, ensure_ascii=False))
    assert json.loads(shown) == data


def test_text_of_an_exception_that_raises_is_found() -> None:
    class BadError(Exception):
        def __str__(self) -> str:
            raise SystemExit(3)

    assert "SystemExit" in first_line(BadError())
