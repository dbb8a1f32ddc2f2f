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


def test_rows_keep_their_indent_beside_long_words() -> None:
    symbol = "__ZN2at5emptyEN3c108ArrayRefIxEENS0_13TensorOptionsENS0_8optionalINS0_12MemoryFormatEEE"
    path = "/Users/x/env/lib/python3.9/site-packages/torch_sparse/_convert_cpu.so"
    first, *rows = (
        run(f"OSError: dlopen({path}, 0x0006): Symbol not found: {symbol}").output.rstrip().split("\n")
    )
    assert first == "install"
    assert all(row.startswith("  ") for row in rows)
    assert "dlopen(.../site-packages/torch_sparse/_convert_cpu.so" in rows[0]


def test_given_versions_are_not_echoed() -> None:
    timeout = "Execution of the command buffer was aborted: kIOGPUCommandBufferCallbackErrorTimeout"
    assert "14.0" not in run(timeout, "--macos", "14.0").output
    no_wheel = "ERROR: Could not find a version that satisfies the requirement pyg_lib (from versions: none)"
    for text in (
        "KeyError: 'weight'",
        no_wheel,
        "AttributeError: module 'torch.backends' has no attribute 'mps'",
    ):
        assert "1.13" not in run(text, "--torch", "1.13.1").output


def test_an_old_torch_takes_one_line_at_most() -> None:
    refused = "MPSNDArray.mm:78: failed assertion `something new'"
    last = run(refused, "--torch", "1.13.1").output.rstrip().split("\n\n")[-1]
    assert last == "torch 1.13.1 is older than all known here (2.1): upgrade it first."


def test_the_torch_of_a_commit_is_said() -> None:
    text = f"{MISSING} The use-case and commit hash e2d141dbde55c2a4370fac5165b0561b6af4798b."
    assert "is torch 2.7.1's" in run(text).output
