"""A portable reference: the results of a run on another machine in one safetensors file, with JSON metadata.

It holds the processed input, the named results, a sketch of every module's outputs, the outputs that determine the
next step of a generation or flow, the noise of every tensor, and what is needed to verify that another machine runs
the same thing. Reading it never executes anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mpsprobe.errors import DataError, UsageError
from mpsprobe.layers.capture import PARTS, Capture, Sketch
from mpsprobe.layers.criterion import Noise
from mpsprobe.layers.module_calls import Extent, leaves
from mpsprobe.layers.result import Side

#: The version of the file's schema, raised when a reader of the old schema would misread the new one.
FORM = 1
_KEY = "mpsprobe-baseline"


class StageTables(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The tables that the numbers in a stage's index refer to, and what the stage has besides tensors.

    Attributes:
        paths: The paths of the modules.
        places: The places of tensors in the modules' outputs.
        shapes: The shapes of those tensors.
        dtypes: The dtypes without `torch.`.
        steps_left_out: The number of outputs that were too large to be kept whole.
        texts: The named results that hold no tensor.
        noise_problems: The path, place and problem of each tensor whose noise is no number.
        has_noise: Whether the noise was measured.
    """

    paths: list[str]
    places: list[str]
    shapes: list[tuple[int, ...]]
    dtypes: list[str]
    steps_left_out: int = 0
    texts: dict[str, Any] = {}
    noise_problems: list[tuple[str, str, str]] = []
    has_noise: bool = False


class Info(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The JSON metadata of a baseline's file.

    Attributes:
        form: The version of the schema.
        mpsprobe: The version of mpsprobe that wrote it.
        created: The time in UTC (ISO 8601).
        target: The name by which the user of that run gave the model.
        profile: The name of its profile.
        weights: The digest of the weights; see `identity`.
        config: The digest of the config; see `identity`.
        asked: The requested dtype, such as `"auto"`.
        autocast: The dtype of the autocast region; `""` for none.
        inference: The parameters of the target's inference, including its seed.
        seed: The seed that torch gets before every pass.
        side: The run that wrote it.
        noise: What the noise was measured with; `""` when it was not.
        stages: The tables by stage.
    """

    form: int = FORM
    mpsprobe: str
    created: str
    target: str
    profile: str
    weights: str
    config: str
    asked: str
    autocast: str
    inference: dict[str, Any]
    seed: int
    side: Side
    noise: str = ""
    stages: dict[str, StageTables] = {}


@dataclass
class Baseline:
    """A baseline as it is used in memory.

    Attributes:
        info: The JSON part; its `stages` is filled when it is written.
        batch: The tensors of the processed input, by place (see `leaves`).
        captures: The recorded passes by stage.
        noises: The noise of the passes by stage, where it was measured.
    """

    info: Info
    batch: dict[str, torch.Tensor]
    captures: dict[Extent, Capture] = field(default_factory=dict)
    noises: dict[Extent, Noise] = field(default_factory=dict)


def save(baseline: Baseline, path: Path) -> None:
    """Write a baseline as one safetensors file, and fill `info.stages`. Missing folders of the path are made.

    Raises:
        UsageError: The file cannot be written at `path`.
    """
    tensors = {f"batch/{place}": _owned(tensor) for place, tensor in baseline.batch.items()}
    for stage, taken in baseline.captures.items():
        tables = StageTables(paths=[], places=[], shapes=[], dtypes=[], steps_left_out=taken.steps_left_out)
        tensors.update(_pack(taken, tables, stage.value))
        if stage in baseline.noises:
            tensors.update(_pack_noise(baseline.noises[stage], tables, stage.value))
        baseline.info.stages[stage.value] = tables
    metadata = {_KEY: msgspec.json.encode(baseline.info).decode()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, metadata)
    except (OSError, SafetensorError) as problem:
        raise UsageError(f"{path}: cannot be written: {problem}.") from problem


def load(path: Path) -> Baseline:
    """Read a baseline with its tensors.

    Raises:
        DataError: The file is missing, damaged or not a baseline, or has a later schema version.
    """
    info, tensors = _read(path)
    batch = {name.removeprefix("batch/"): t for name, t in tensors.items() if name.startswith("batch/")}
    baseline = Baseline(info, batch)
    try:
        for name, tables in info.stages.items():
            stage = Extent(name)
            baseline.captures[stage] = _unpack(tensors, tables, name)
            if tables.has_noise:
                baseline.noises[stage] = _unpack_noise(tensors, tables, name)
    except (KeyError, IndexError, ValueError) as problem:
        raise DataError(f"{path}: a damaged baseline: {problem}.", "Write it again.") from problem
    return baseline


def read_info(path: Path) -> Info:
    """Read the JSON metadata of a baseline, without its tensors.

    Raises:
        DataError: The file is missing, is not a baseline, or has a later schema version.
    """
    return _open(path, tensors=False)[0]


def _read(path: Path) -> tuple[Info, dict[str, torch.Tensor]]:
    return _open(path, tensors=True)


def _open(path: Path, *, tensors: bool) -> tuple[Info, dict[str, torch.Tensor]]:
    hint = "Write one with: mpsprobe baseline MODEL --output FILE"
    if not path.is_file():
        raise DataError(f"{path}: no such file.", hint)
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            if text is None:
                raise DataError(f"{path}: a safetensors file, but no baseline of mpsprobe's.", hint)
            form = msgspec.json.decode(text, type=_Formed).form
            if form > FORM:
                raise DataError(
                    f"{path}: written in form {form}, this mpsprobe reads up to {FORM}.", "Upgrade mpsprobe."
                )
            info = msgspec.json.decode(text, type=Info)
            read = {key: file.get_tensor(key) for key in file.keys()} if tensors else {}  # noqa: SIM118
    except (SafetensorError, OSError, msgspec.DecodeError) as problem:
        raise DataError(f"{path}: not a baseline: {problem}.", hint) from problem
    return info, read


class _Formed(msgspec.Struct):
    form: int


class _Numbers:
    """Give each distinct value a number, and store the values in a table."""

    def __init__(self, table: list[Any]) -> None:
        self._table = table
        self._known = {value: number for number, value in enumerate(table)}

    def __call__(self, value: Any) -> int:
        number = self._known.setdefault(value, len(self._table))
        if number == len(self._table):
            self._table.append(value)
        return number


def _pack(taken: Capture, tables: StageTables, stage: str) -> dict[str, torch.Tensor]:
    path, place = _Numbers(tables.paths), _Numbers(tables.places)
    shape, dtype = _Numbers(tables.shapes), _Numbers(tables.dtypes)
    sketches = taken.sketches
    index = [
        [path(p), nth, place(at), shape(s.shape), dtype(s.dtype)] for (p, nth, at), s in sketches.items()
    ]
    sums = [torch.from_numpy(s.sums) for s in sketches.values()]
    tensors = {
        f"{stage}/index": torch.tensor(index, dtype=torch.int32).reshape(-1, 5),
        f"{stage}/sums": torch.stack(sums) if sums else torch.empty(0, PARTS, dtype=torch.float64),
        f"{stage}/rms": torch.tensor([s.rms for s in sketches.values()], dtype=torch.float64),
        f"{stage}/odd": torch.tensor([[s.nan, s.inf] for s in sketches.values()], dtype=torch.int64).reshape(
            -1, 2
        ),
    }
    rows = {key: row for row, key in enumerate(sketches)}
    tensors |= {f"{stage}/step/{rows[key]}": _owned(tensor) for key, tensor in taken.steps.items()}
    tensors |= {f"{stage}/output/{at}": _owned(tensor) for at, tensor in leaves(taken.outputs)}
    tables.texts = {
        name: value for name, value in taken.outputs.items() if not any(True for _ in leaves(value))
    }
    return tensors


def _unpack(tensors: dict[str, torch.Tensor], tables: StageTables, stage: str) -> Capture:
    taken = Capture(steps_left_out=tables.steps_left_out)
    index = tensors[f"{stage}/index"].tolist()
    sums, rms = tensors[f"{stage}/sums"].numpy(), tensors[f"{stage}/rms"].tolist()
    odd = tensors[f"{stage}/odd"].tolist()
    for row, (path, nth, place, shape, dtype) in enumerate(index):
        key = (tables.paths[path], nth, tables.places[place])
        taken.sketches[key] = Sketch(
            sums[row], tuple(tables.shapes[shape]), tables.dtypes[dtype], rms[row], *odd[row]
        )
        if f"{stage}/step/{row}" in tensors:
            taken.steps[key] = tensors[f"{stage}/step/{row}"]
    prefix = f"{stage}/output/"
    # By place and not nested: `leaves` yields the same places for both, except for the first dot.
    taken.outputs = {
        name.removeprefix(prefix).removeprefix("."): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    } | tables.texts
    return taken


def _pack_noise(noise: Noise, tables: StageTables, stage: str) -> dict[str, torch.Tensor]:
    path, place = _Numbers(tables.paths), _Numbers(tables.places)
    index = [[path(p), place(at)] for p, at in noise.errors]
    tables.noise_problems = [(p, at, text) for (p, at), text in noise.problems.items()]
    tables.has_noise = True
    return {
        f"{stage}/noise index": torch.tensor(index, dtype=torch.int32).reshape(-1, 2),
        f"{stage}/noise": torch.tensor(list(noise.errors.values()), dtype=torch.float64).reshape(-1, 2),
    }


def _unpack_noise(tensors: dict[str, torch.Tensor], tables: StageTables, stage: str) -> Noise:
    index = tensors[f"{stage}/noise index"].tolist()
    values = tensors[f"{stage}/noise"].tolist()
    return Noise(
        {
            (tables.paths[path], tables.places[place]): (error, worst)
            for (path, place), (error, worst) in zip(index, values, strict=True)
        },
        {(path, place): text for path, place, text in tables.noise_problems},
    )


def _owned(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy with its own contiguous memory, which safetensors needs."""
    return tensor.detach().cpu().contiguous().clone()
