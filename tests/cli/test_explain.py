"""`mpsprobe explain` as users call it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mpsprobe.cli.explain import NOTHING_KNOWN, command
from mpsprobe.cli.sink import Sink
from mpsprobe.errors import UsageError

MISSING = (
    "NotImplementedError: The operator 'aten::isin.Tensor_Tensor_out' is not currently implemented for the MPS "
    "device."
)


def run(*words: str, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(command, list(words), obj=Sink(), input=stdin)


def test_a_text_is_explained_in_words() -> None:
    result = run(MISSING)
    assert result.exit_code == 0
    assert result.output.startswith("missing-op: aten::isin.Tensor_Tensor_out")
    assert "torch>=2.4" in result.output
    assert "PYTORCH_ENABLE_MPS_FALLBACK=1" in result.output


def test_words_without_quotes_are_one_text() -> None:
    assert (
        run("Placeholder", "storage", "has", "not", "been", "allocated", "on", "MPS", "device!").exit_code
        == 0
    )


def test_a_log_is_read_from_standard_input() -> None:
    result = run("-", stdin=f"step 1\n{MISSING}\n")
    assert result.exit_code == 0
    assert "aten::isin" in result.output


def test_bytes_that_are_no_utf8_do_not_stop_it() -> None:
    assert run("-", stdin=b"\xff\xfe " + MISSING.encode()).exit_code == 0


def test_a_log_is_read_from_a_file(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_text(MISSING)
    assert run(str(log)).exit_code == 0


def test_json_holds_every_field() -> None:
    result = run(MISSING, "--torch", "2.3.1", "--json")
    data = json.loads(result.output)
    assert data["torch"] == "2.3.1"
    (finding,) = data["findings"]
    assert finding["cause"] == "missing-op"
    assert finding["op"] == "aten::isin.Tensor_Tensor_out"
    assert finding["fixed_in"] == "2.4"
    assert finding["fallback"] == "yes"


def test_an_unknown_text_says_so_and_ends_with_its_own_code() -> None:
    result = run("KeyError: 'weight'")
    assert result.exit_code == NOTHING_KNOWN == 1
    assert "knows no message" in result.output
    assert json.loads(run("KeyError: 'weight'", "--json").stdout)["findings"] == []


@pytest.mark.parametrize("words", [(" ",), ("x", "--torch", "latest"), ("x", "--macos", "Sonoma")])
def test_a_wrong_call_is_a_usage_error(words: tuple[str, ...]) -> None:
    result = run(*words)
    assert result.exception is not None
    assert getattr(result.exception, "exit_code", None) == 2


def test_a_long_text_is_not_taken_for_a_file_name() -> None:
    assert run("x" * 300 + " " + MISSING).exit_code == 0
    assert run(MISSING + "\x00").exit_code == 0


@pytest.mark.parametrize(
    ("words", "stdin", "says"),
    [
        (("-",), "", "There is no text"),
        (("/no/such/file.log",), None, "There is no file"),
        (("run.log",), None, "There is no file"),
        (("/usr/",), None, "is a folder"),
    ],
)
def test_a_missing_text_or_file_gets_one_clear_line(
    words: tuple[str, ...], stdin: str | None, says: str
) -> None:
    result = run(*words, stdin=stdin)
    assert isinstance(result.exception, UsageError)
    assert says in str(result.exception)


def test_a_line_of_metal_is_a_text_and_no_option() -> None:
    line = (
        "-[MTLHeap x]:1: failed assertion `Heap Descriptor Validation Placement heap type is not supported.'"
    )
    assert "metal-assertion" in run(line, "--torch", "2.8.0").output


def test_a_log_of_windows_lines_and_colours_is_read() -> None:
    log = f"\x1b[31mFehler:\x1b[0m 运行时出错\r\nUserWarning: x\r\n\x1b[1m{MISSING}\x1b[0m\r\n"
    result = run("-", stdin=log.encode())
    assert result.output.startswith("missing-op: aten::isin.Tensor_Tensor_out")
