"""What is known of MLX: ATen ops in it, its traps, the models that others wrote for it, and which of them were checked.

Nothing here imports MLX. `docs/routes.md` says how the data were made.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterable
from pathlib import Path

import msgspec

from mpsprobe import toml
from mpsprobe.errors import DataError
from mpsprobe.run import OpUse, TensorMeta

_DATA = Path(__file__).parent / "data"


class Kind(str, enum.Enum):
    """How an ATen op is written in MLX."""

    DIRECT = "direct"  #: one call
    COMPOSE = "compose"  #: a few calls
    HOST = "host"  #: its result's size depends on values: a part runs on the host
    MISSING = "missing"  #: to be written by hand
    UNKNOWN = "unknown"  #: not in the table


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An ATen op in MLX.

    Attributes:
        ops: names, without overload where every overload is meant.
        mlx: the call or the expression.
        kind: how close that is.
        runs: where: `"gpu"`, `"cpu"` (MLX's CPU stream alone) or `"host"`.
        executed: it was run in both on the same values.
        case: which form of the op, for people.
        mask: holds only with (True) or only without (False) a boolean index.
        note: what to look out for.
        error: largest absolute difference seen.
    """

    ops: list[str]
    mlx: str
    kind: Kind
    runs: str
    executed: bool
    case: str = ""
    mask: bool | None = None
    note: str = ""
    error: float | None = None


class Trap(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A call that looks the same and does something else.

    Attributes:
        id: stable name.
        title: what goes wrong, as a sentence without a full stop.
        ops: names without overload, of which one must be used.
        torch, mlx: what each does.
        fix: what to do.
        dtypes: of an input, of which one must occur.
        masks: a boolean input must occur.
        inplace: an op that writes to its input, at a view of something.
        causal: `is_causal` must be set, with fewer queries than keys.
    """

    id: str
    title: str
    ops: list[str]
    torch: str
    mlx: str
    fix: str
    dtypes: list[str] = []
    masks: bool = False
    inplace: bool = False
    causal: bool = False

    def applies(self, use: OpUse) -> bool:
        """Return whether an op use meets it."""
        if self.ops and base(use.op) not in self.ops:
            return False
        if self.dtypes and not any(one.dtype in self.dtypes for one in use.inputs):
            return False
        if self.masks and base(use.op) not in _SELECTS and not _has_mask(use):
            return False
        if self.inplace and not (use.inputs and _is_part(use.inputs[0])):
            return False
        return not self.causal or (use.scalars.get("is_causal") is True and _fewer_queries(use))


class MlxLibrary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A library of models for MLX, as its source files have it.

    Attributes:
        name: of its distribution: `"mlx-lm"`, `"mlx-vlm"`, `"mlx-whisper"` or `"mlx-embeddings"`.
        version: of the release read.
        models: names of its modules that hold a model and its config.
        renamed: model types that it takes for another.
    """

    name: str
    version: str
    models: list[str]
    renamed: dict[str, str]

    def module(self, model_type: str) -> str | None:
        """Return the module that would load `model_type`; None when there is none."""
        name = self.renamed.get(model_type, model_type)
        return next((one for one in (name, name.replace("-", "_")) if one in self.models), None)


class Proof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A parity run of one architecture: see `docs/routes.md`.

    Attributes:
        model_type: as in config.json.
        package, version: the library of models.
        agrees: the logits were within the gate, and the altered models were not.
        error: largest difference of a logit.
        gate: what was allowed.
        inputs: what was fed: `"text"`, `"image and text"`.
        device: `"cpu"` or `"gpu"`.
        note: what was seen where it does not agree.
        source: how it was made, and when.
    """

    model_type: str
    package: str
    version: str
    agrees: bool
    source: str
    inputs: str = "text"
    device: str = "cpu"
    error: float | None = None
    gate: float | None = None
    note: str = ""


class _Map(msgspec.Struct, frozen=True):
    rows: list[Row]


class _Traps(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    source: str
    traps: list[Trap]


class _Proofs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    proofs: list[Proof]


#: Ops that read by a mask whatever their inputs are.
_SELECTS = ("aten::masked_select", "aten::nonzero")
#: From better to worse.
_KINDS = list(Kind)


@functools.cache
def _rows() -> dict[str, list[Row]]:
    file = _DATA / "aten_to_mlx.json"
    try:
        data = msgspec.json.decode(file.read_bytes(), type=_Map)
    except msgspec.DecodeError as problem:
        raise DataError(f"{file}: {problem}.", "Reinstall mpsprobe.") from problem
    found: dict[str, list[Row]] = {}
    for row in data.rows:
        for op in row.ops:
            found.setdefault(op, []).append(row)
    return found


def rows() -> list[Row]:
    """Return every row of the map from ATen to MLX, once."""
    return list({id(row): row for group in _rows().values() for row in group}.values())


def row_for(use: OpUse) -> Row | None:
    """Return how an op use is written in MLX; None when the map does not know its op.

    An overload's own row comes first, then that of its op; an in-place or `out` form is the op itself.
    """
    name = use.op
    plain = base(name)
    stem = plain.rstrip("_") if not plain.endswith("__") else plain
    for candidate in dict.fromkeys((name, name.replace(plain, stem, 1), plain, stem)):
        for row in _rows().get(candidate, ()):
            if row.mask is None or row.mask is _has_mask(use):
                return row
    siblings = [row for op, group in _rows().items() if base(op) == stem for row in group]
    fitting = [row for row in siblings if row.mask is None or row.mask is _has_mask(use)]
    return max(fitting, key=lambda row: _KINDS.index(row.kind), default=None)


def base(op: str) -> str:
    """Return `"aten::add"` of `"aten::add.Tensor"`."""
    return op.partition(".")[0]


def _has_mask(use: OpUse) -> bool:
    return any(one.dtype == "bool" for one in use.inputs[1:])


def _fewer_queries(use: OpUse) -> bool:
    query, key = (one.shape for one in use.inputs[:2])
    return query[-2] < key[-2]


def _is_part(tensor: TensorMeta) -> bool:
    """Return whether its elements do not lie packed, so that it is a part of something larger."""
    expected = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        if size != 1 and stride != expected:
            return True
        expected *= size
    return False


@functools.cache
def _traps() -> list[Trap]:
    return toml.load(_DATA / "mlx_traps.toml", _Traps).traps


def traps() -> list[Trap]:
    """Return all traps."""
    return list(_traps())


def traps_met(uses: Iterable[OpUse]) -> list[tuple[Trap, int]]:
    """Return the traps that some op uses meet, each with the number of calls, most calls first."""
    calls: dict[str, int] = {}
    for use in uses:
        for trap in _traps():
            if trap.applies(use):
                calls[trap.id] = calls.get(trap.id, 0) + use.count
    met = [(trap, calls[trap.id]) for trap in _traps() if trap.id in calls]
    return sorted(met, key=lambda pair: -pair[1])


@functools.cache
def packages() -> list[MlxLibrary]:
    """Return the libraries of models as they were when `tools/mlx_models.py` read them."""
    file = _DATA / "mlx_models.json"
    try:
        return msgspec.json.decode(file.read_bytes(), type=list[MlxLibrary])
    except msgspec.DecodeError as problem:
        raise DataError(f"{file}: {problem}.", "Reinstall mpsprobe.") from problem


@functools.cache
def proofs() -> list[Proof]:
    """Return the parity runs that this package's authors made."""
    return toml.load(_DATA / "mlx_parity.toml", _Proofs).proofs
