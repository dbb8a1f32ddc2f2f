"""Text for people: width, colours, options in any place, and names that are nearly right."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner

from mpsprobe.cli import COMMANDS, cli
from mpsprobe.cli.sink import Sink, Styled, uses_colour, wrapped
from mpsprobe.errors import UsageError
from mpsprobe.knowledge import ops
from mpsprobe.report import terminal
from mpsprobe.run import Hazard


def test_prose_is_wrapped_under_its_first_word() -> None:
    assert wrapped("  ran    " + "word " * 8 + "end", 30) == (
        "  ran    word word word word\n         word word word word\n         end"
    )


def test_rows_and_long_words_are_not_wrapped() -> None:
    row = "native    66   2,462   11,967   100.00%   0.0"
    link = "https://github.com/pytorch/pytorch/issues/161640"
    assert wrapped(row, 30) == row
    assert wrapped(link, 30) == link


def test_a_wide_table_keeps_to_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    Sink().table(["op", "note"], [["aten::mm", "word " * 30]], [])
    Sink().table(["op", "a", "b"], [["aten::" + "m" * 40, "x" * 20, "y"]], [])
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 60
    assert "  a: xxxxxxxxxxxxxxxxxxxx\n  b: y" in said


@pytest.mark.parametrize("words", [("-q", "ops", "aten::mm"), ("ops", "aten::mm", "-q")])
def test_quiet_stands_before_or_behind_a_command(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, words)
    assert (result.exit_code, result.output) == (0, "")


def test_colour_obeys_no_color_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert uses_colour() is False
    assert uses_colour("always") is True
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "xterm")
    assert uses_colour() is None
    assert uses_colour("never") is False


def test_always_colours_what_is_not_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Sink(colour="always").remark(Styled("red", "red"))
    Sink(colour="never").remark(Styled("red", "red"))
    assert capsys.readouterr().out == "\x1b[31mred\x1b[0m\nred\n"


def test_a_misspelt_command_is_recognised() -> None:
    result = CliRunner().invoke(cli, ["predct"])
    assert result.exit_code == 2
    assert "Did you mean 'predict'?" in result.output


def test_a_misspelt_release_is_recognised() -> None:
    with pytest.raises(UsageError) as raised:
        ops.resolve_release("2.99")
    assert "Did you mean 2.9?" in raised.value.hint


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_the_options_of_the_program(name: str) -> None:
    command = cli.get_command(None, name)  # type: ignore[arg-type]
    assert command is not None
    inner = getattr(command, "commands", {"": command})
    for one in inner.values():
        given = {word for option in one.params for word in option.opts}
        assert {"--json", "-q", "-v", "--color"} <= given


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("run --device em", {"plain,emulated"}),
        ("predict --mac m1-max-6", {"plain,m1-max-64"}),
        ("predict --torch 2.1", {"plain,2.1", "plain,2.10", "plain,2.15"}),
        ("run ./exam", {"file,./exam"}),
        ("predi", {"plain,predict"}),
    ],
)
def test_a_shell_completes_commands_and_values(words: str, found: set[str]) -> None:
    line = f"mpsprobe {words}"
    shell = {
        "_MPSPROBE_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - 1),
    }
    said = CliRunner(env=shell).invoke(cli, prog_name="mpsprobe").output
    assert found <= set(said.split())


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_no_help_shows_a_type_of_click(name: str) -> None:
    shown = CliRunner().invoke(cli, [name, "--help"], obj=Sink()).output
    assert not re.findall(r"--[\w-]+ (?:TEXT|INTEGER|FLOAT)\b", shown)


@pytest.mark.parametrize("name", ["predict", "macs"])
def test_help_leaves_out_what_a_command_implies(name: str) -> None:
    shown = CliRunner().invoke(cli, [name, "--help"], obj=Sink()).output
    assert "--random-init" not in shown
    assert "Keep fewer layers" in shown


@pytest.mark.parametrize(
    ("met", "rest", "words"),
    [
        (0, 1, "1 known fault needs circumstances that no recording shows, or does little harm; --json lists it."),
        (0, 2, "2 known faults need circumstances that no recording shows, or do little harm; --json lists them."),
        (1, 2, "2 other faults need circumstances that no recording shows, or do little harm; --json lists them."),
    ],
)  # fmt: skip
def test_faults_that_are_not_listed_are_counted(met: int, rest: int, words: str) -> None:
    def fault(certainty: str, *, listed: bool) -> Hazard:
        return Hazard(
            advisory="a",
            title="It fails",
            severity="low",
            symptom="wrong",
            certainty=certainty,
            calls=1,
            listed=listed,
        )

    faults = [fault("certain", listed=True)] * met + [fault("possible", listed=False)] * rest
    shown = terminal._hazards(faults, verbose=False).splitlines()
    assert shown[-1].strip() == words
    assert [line.strip() for line in shown[1:-1]] == ["low, certain: It fails (a, 1 call)"] * met
