"""What phase 3 says of the dtypes that are stored in a checkpoint."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from mpsprobe.models.hub import snapshot
from mpsprobe.models.profile import Profile
from mpsprobe.models.targets import TargetRef
from mpsprobe.options import Settings
from mpsprobe.phases import download
from mpsprobe.phases.check import Result
from mpsprobe.run import Status


def dtypes_of(folder: Path, stored: str, size: int) -> Result:
    (folder / "config.json").write_text('{"architectures": ["A"]}')
    header = json.dumps({"x": {"dtype": stored, "shape": [2], "data_offsets": [0, size]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))
    ref = TargetRef("m", Profile(name="m", title="m", adapter="a:B"), Settings(), folder=folder)
    obtained = download.Obtained(ref, snapshot.inspect(folder), None, "folder", 0.0)
    (spec,) = [one for one in download.CHECKS if one.name == "dtypes"]
    return spec(obtained)


def test_checkpoint_in_double_precision_is_warned_of(tmp_path: Path) -> None:
    result = dtypes_of(tmp_path, "F64", 16)
    assert result.status is Status.WARN
    assert "float64" in result.message
    assert "float32" in result.remedy
    assert result.table is not None
    assert result.table.rows == [["float64", 2]]


def test_checkpoint_in_half_precision_passes(tmp_path: Path) -> None:
    assert dtypes_of(tmp_path, "BF16", 4).status is Status.PASS
