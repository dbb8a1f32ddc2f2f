"""From files to a report: places, silenced lines, files that are broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpsprobe.errors import UsageError
from mpsprobe.scan import Level, Options, Report, scan, sources
from mpsprobe.scan.scanner import scan_text

OPTIONS = Options(torch="2.13")


def report(folder: Path) -> Report:
    return scan(sources.of_path(folder), OPTIONS)


def test_a_place_is_in_characters_and_lines_as_an_editor_counts(tmp_path: Path) -> None:
    # Umlauts before it, a byte-order mark, and two kinds of line ends.
    text = 'import torch\rname = "ä€"; x = torch.ones(2, device="cuda")\r\ny = x.cuda()\n'
    (tmp_path / "a.py").write_bytes(b"\xef\xbb\xbf" + text.encode())
    first, second = report(tmp_path).findings
    line = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")[1]
    assert (first.line, second.line) == (2, 3)
    assert line[first.column - 1 : first.end_column - 1] == 'device="cuda"'
    assert first.text == line


def test_files_in_other_encodings_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes('# coding: latin-1\nname = "ä"; x.cuda()\n'.encode("latin-1"))
    (finding,) = report(tmp_path).findings
    assert finding.column == 13


@pytest.mark.parametrize(
    ("content", "reason", "line"),
    [
        (b"x = 1\ndef f(:\n", "invalid syntax", 2),
        (b"print 'hello'\n", "Missing parentheses", 1),
        (b"\xff\xfe\x00", "encoding", None),
        (b"# coding: no-such\n", "unknown encoding", None),
        (b"# coding: utf-8\nx = '\xe4'\n", "utf-8", None),
        (b"x = '\x00'\n", "null bytes", None),
        (b"x = " + b"(" * 300 + b")" * 300, "", None),
        (b"x = " + b"+".join([b"1"] * 30_000), "too deeply", None),
        (b"import torch\nx = y" + b".a" * 800 + b".cuda()" * 200, "", None),
    ],
)
def test_a_broken_file_is_one_line_and_the_others_are_scanned(
    tmp_path: Path, content: bytes, reason: str, line: int | None
) -> None:
    (tmp_path / "broken.py").write_bytes(content)
    (tmp_path / "good.py").write_text("import torch\ntorch.cuda.synchronize()\n")
    found = report(tmp_path)
    assert [finding.path for finding in found.findings if "good" in finding.path]
    for problem in found.unreadable:
        assert problem.path.endswith("broken.py")
        assert reason in problem.reason
        assert "\n" not in problem.reason
        assert line is None or problem.line == line
    assert found.unreadable or not reason


def test_a_target_without_files_is_reported(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere.py")
    assert {Path(problem.path).name for problem in report(tmp_path).unreadable} == {"pipe.py", "gone.py"}


def test_noqa_silences_its_codes_on_its_lines() -> None:
    def codes(text: str) -> list[str]:
        return [finding.code for finding in scan_text("import torch\n" + text, OPTIONS)]

    line = 'x = torch.ones(2, device="cuda"); torch.cuda.synchronize()'
    assert codes(line) == ["MPS101", "MPS105"]
    assert codes(f"{line}  # noqa: MPS101") == ["MPS105"]
    assert codes(f"{line}  # noqa: E501, mps101,MPS105 - because") == []
    assert codes(f"{line}  # NOQA:MPS105") == ["MPS101"]
    assert codes(f"{line}  # noqa") == ["MPS101", "MPS105"]  # other tools'
    assert codes(f'{line}; s = "# noqa: MPS101"') == ["MPS101", "MPS105"]  # a string is no comment
    several = "torch.cuda.set_device(\n    0,\n){}"
    assert codes(several.format("  # noqa: MPS103")) == []
    loop = "while True:\n    try:\n        break\n    except RuntimeError:{}\n        pass{}\n"
    assert codes(loop.format("", "")) == ["MPS501"]
    assert codes(loop.format("  # noqa: MPS501", "")) == []
    assert codes(loop.format("", "  # noqa: MPS501")) == ["MPS501"]  # inside its body


def test_a_report_counts(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "import torch\ntorch.cuda.synchronize()  # noqa: MPS105\ntorch.cuda.empty_cache()\n"
    )
    (tmp_path / "test_b.py").write_text("import pytest\n")
    found = report(tmp_path)
    assert (found.files, found.lines, found.suppressed, found.tests_left_out) == (1, 3, 1, 1)
    assert found.by_rule() == {"MPS104": 1}
    assert found.worst(Level.NOTE)
    assert not found.worst(Level.WARNING)


def test_a_release_without_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("")
    with pytest.raises(UsageError, match=r"9\.9"):
        scan(sources.of_path(tmp_path), Options(torch="9.9"))
