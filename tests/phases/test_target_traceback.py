"""A traceback of a target's failure begins with the target, not with the suite's way to it."""

from __future__ import annotations

from pathlib import Path

import mpsprobe
from mpsprobe.phases import target_code
from mpsprobe.run import Evidence


def test_frames_of_the_suite_are_hidden(tmp_path: Path) -> None:
    file = tmp_path / "theirs.py"
    file.write_text(
        "def infer():\n    try:\n        {}['a']\n    except KeyError as first:\n"
        "        raise ValueError('x') from first\n"
    )
    names: dict[str, object] = {}
    exec(compile(file.read_text(), str(file), "exec"), names)
    ours = str(Path(mpsprobe.__file__).parent / "way.py")
    exec(compile("def way(call):\n    call()\n", ours, "exec"), names)
    try:
        names["way"](names["infer"])  # type: ignore[operator]
    except ValueError as problem:
        output = target_code.raised(problem, "doing", Evidence.EMULATED, "emulated").output
    assert "way.py" not in output
    assert "test_target_traceback" in output  # neither the suite's nor an installed package's
    assert output.count("theirs.py") == 2
    assert "KeyError" in output
    assert output.endswith("ValueError: x")
