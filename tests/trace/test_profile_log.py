"""Lines of PYTORCH_MPS_LOG_PROFILE_INFO, composed by the format strings of PyTorch's macOS wheels."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpsprobe.report.fact_lists import fact_lists
from mpsprobe.run import (
    DeviceChoice,
    Evidence,
    Host,
    LoggedFallback,
    OpUse,
    OpVerdict,
    Run,
    Target,
)  # fmt: skip
from mpsprobe.trace.profile_log import fallbacks, read

# ATen/mps/MPSProfiler.mm, alike in the wheels of 2.1.2 to 2.15.0
_FALLBACK = "CPU Fallback::{} (id={}, run={}, CopyOverhead={}{})"
_OPERATION = "aten::{} (id={}{}, run={}{})"
_COPY = "{}Copy{}: {} --> {} (len={}{})"
_CPU = ", cpu={:.3f} ms"
_HEAD = "\n{:-^150}\n{:^5}|{:^7}|{:^14}|{:^15}|{:^15}| {}\n{:-^150}"
_TITLE = " CPU Fallback Profiling: Total {} Runs, {:.2f} ms, {} Copies "
_ROW = "{:^6}{:^8}{:^15}{:^16}{:^16} {}"
_COLUMNS = ("ID", "#Runs", "Mean CPU(ms)", "Total CPU(ms)", "Copy Overhead", "Operation Name")
_NONE = "There are no CPU Fallbacks logged for profiling"


def table(runs: int, ms: float, size: str, *rows: str) -> list[str]:
    return [*_HEAD.format(_TITLE.format(runs, ms, size), *_COLUMNS, "").split("\n"), *rows]


def test_lines_of_runs_are_counted() -> None:
    lines = [
        _OPERATION.format("linear:MPS:Float[2, 3]", "G", 4, 1, ""),
        _FALLBACK.format("aten::_linalg_eigh:MPS:Float[1, 8, 8]", 1, 1, "256 bytes", ""),
        _COPY.format("Mem", "Sync", "MPS:Float[1, 8, 8]", "CPU:Float[1, 8, 8]", "256 bytes", ""),
        _FALLBACK.format("aten::_linalg_eigh:MPS:Float[1, 8, 8]", 1, 2, "256 bytes", ""),
        _FALLBACK.format("aten::grid_sampler_3d:MPS:Float[]:undefined", 2, 1, "1.50 KB", ""),
        _FALLBACK.format("torchvision::nms", 3, 1, "2.00 MB", ""),
    ]
    assert fallbacks(lines) == [
        LoggedFallback("aten::_linalg_eigh", 2, 512),
        LoggedFallback("aten::grid_sampler_3d", 1, 1536),
        LoggedFallback("torchvision::nms", 1, 2 << 20),
    ]


def test_times_are_summed_where_the_log_has_them() -> None:
    with_time = [
        _FALLBACK.format("aten::eig:MPS(buf#12:3):Float[9, 9]", 1, run, "324 bytes", _CPU.format(ms))
        for run, ms in ((1, 0.25), (2, 0.75))
    ]
    (found,) = fallbacks(with_time)
    assert found == LoggedFallback("aten::eig", 2, 648, 0.001)


def test_the_table_at_the_end_is_read() -> None:
    rows = [
        _ROW.format(2, 3, "1.500", "4.500", "1.21 GB", "aten::_linalg_svd"),
        _ROW.format(1, 12, "0.100", "1.200", "3.00 KB", "aten::histc"),
    ]
    lines = [*table(15, 5.7, "1.21 GB", *rows), "", "  7   1   2.0   2.0   3 bytes  aten::not_of_the_table"]
    svd, histc = fallbacks(lines)
    assert svd == LoggedFallback("aten::_linalg_svd", 3, round(1.21 * (1 << 30)), 0.0045)
    assert histc == LoggedFallback("aten::histc", 12, 3 << 10, 0.0012)


def test_runs_that_are_told_twice_count_once() -> None:
    lines = [_FALLBACK.format("aten::histc:MPS:Float[3]", 1, run, "12 bytes", "") for run in (1, 2)]
    lines += table(2, 0.5, "24 bytes", _ROW.format(1, 2, "0.250", "0.500", "24 bytes", "aten::histc"))
    assert fallbacks(lines) == [LoggedFallback("aten::histc", 2, 24, 0.0005)]


def test_several_processes_in_one_log_are_summed() -> None:
    each = table(1, 0.5, "8 bytes", _ROW.format(1, 1, "0.500", "0.500", "8 bytes", "aten::histc"))
    (found,) = fallbacks([*each, *each])
    assert (found.runs, found.seconds) == (2, 0.001)


@pytest.mark.parametrize(
    "text",
    ["", _NONE, "UserWarning: The operator 'aten::histc' will fall back to run on the CPU.",
     _OPERATION.format("add", "K", 1, 1, ", gpu=0.3 ms")],
)  # fmt: skip
def test_other_lines_are_no_fallbacks(text: str) -> None:
    assert fallbacks([text]) == []


def test_a_log_that_is_not_there_tells_nothing(tmp_path: Path) -> None:
    assert read(tmp_path / "child.err") == []
    (tmp_path / "child.err").write_bytes(
        b"\xff\n" + _FALLBACK.format("aten::a", 1, 1, "8 bytes", "").encode()
    )
    assert read(tmp_path / "child.err") == [LoggedFallback("aten::a", 1, 8)]


def test_a_report_holds_them_beside_the_verdict() -> None:
    use = OpUse(op="aten::histc.default", inputs=[], verdict=OpVerdict.NATIVE)
    run = Run(
        mpsprobe="0", id="0", started="", target=Target(name="", profile=""), device=DeviceChoice("mps", "mps", ""),
        host=Host(system="Darwin", machine="arm64", os_version="15.5"), op_uses=[use],
        logged_fallbacks=[LoggedFallback("aten::histc", 2, 24, 0.0005)],
    )  # fmt: skip
    (told,) = [one for one in fact_lists(run) if one.title == "Ops that the CPU ran"]
    assert "PYTORCH_MPS_LOG_PROFILE_INFO" in told.origin
    assert (told.facts[0].label, told.facts[0].value.partition(",")[0]) == ("aten::histc", "2 runs")
    assert told.facts[0].value.endswith("verdict here: native")
    assert Evidence.MEASURED.value in told.origin
