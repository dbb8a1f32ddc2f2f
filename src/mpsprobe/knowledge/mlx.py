"""Facts about MLX: how it expresses ATen ops, its traps, the models of its libraries, and parity runs of them.

Nothing here imports MLX. `docs/routes.md` states how the data was made.
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
    """How directly MLX expresses an ATen op."""

    DIRECT = "direct"  #: one call
    COMPOSE = "compose"  #: a few calls
    HOST = "host"  #: the size of its result depends on values, so a part runs on the host
    MISSING = "missing"  #: has to be written by hand
    UNKNOWN = "unknown"  #: not in the table


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ATen op with its expression in MLX.

    Attributes:
        ops: The names, without overload where every overload is meant.
        mlx: The call or expression in MLX.
        kind: How close that is to the op.
        runs: Where it runs: `"gpu"`, `"cpu"` (only MLX's CPU stream) or `"host"`.
        executed: Whether it was run in both on the same values.
        case: The variant of the op, for readers.
        mask: Whether the row is for calls with (True) or without (False) a boolean tensor after the first input;
            None for both.
        note: What to watch for.
        error: The largest absolute difference observed; None when it was not run.
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
    """A call that looks the same in MLX but behaves differently.

    Attributes:
        id: A stable name.
        title: What goes wrong, as a sentence without a full stop.
        ops: Names without overload, of which one must be used.
        torch: What torch does.
        mlx: What MLX does.
        fix: What to do.
        dtypes: The dtypes of an input, of which one must occur; empty for any.
        masks: Whether it concerns only calls with a boolean tensor after the first input, and ops that select by a
            mask.
        inplace: Whether it concerns only calls whose first input is not packed and therefore a view.
        causal: Whether it concerns only calls with `is_causal` and fewer queries than keys.
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
        """Return whether a call of this op use would behave differently in MLX."""
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
    """A library of models for MLX, as read in its source files.

    Attributes:
        name: The name of its distribution: `"mlx-lm"`, `"mlx-vlm"`, `"mlx-whisper"` or `"mlx-embeddings"`.
        version: The version that was read.
        models: The names of its modules that define a model and its config.
        renamed: The model types that it maps to another one.
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
    """The result of a parity run of one architecture; `docs/routes.md` describes such runs.

    Attributes:
        model_type: The model type as in config.json.
        package: The name of the MLX library.
        version: The version of the library.
        agrees: Whether the logits were within the gate, and those of the altered models were not.
        source: How and when it was made.
        inputs: The inputs: `"text"` or `"image and text"`.
        device: `"cpu"` or `"gpu"`.
        error: The largest absolute difference of a logit; None when MLX returned nothing.
        gate: The largest difference that was allowed; None when MLX returned nothing.
        note: What was observed where it does not agree.
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


#: Ops that index by a mask whatever their inputs are.
_SELECTS = ("aten::masked_select", "aten::nonzero")
#: The kinds from best to worst.
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
    """Return every row of the map from ATen ops to MLX, each once."""
    return list({id(row): row for group in _rows().values() for row in group}.values())


def row_for(use: OpUse) -> Row | None:
    """Return the row that says how MLX expresses an op use; None when the map lacks its op.

    An overload's own row comes first, then that of its op. An in-place or `out` variant counts as the op itself.
    Without any of these, the worst row of another overload counts.
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
    """Return an op's name without its overload: `"aten::add"` for `"aten::add.Tensor"`."""
    return op.partition(".")[0]


def _has_mask(use: OpUse) -> bool:
    return any(one.dtype == "bool" for one in use.inputs[1:])


def _fewer_queries(use: OpUse) -> bool:
    query, key = (one.shape for one in use.inputs[:2])
    return query[-2] < key[-2]


def _is_part(tensor: TensorMeta) -> bool:
    """Return whether a tensor's strides are not those of a packed one, so that it is a view of another tensor."""
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
    """Return the data file's calls that look the same in MLX as in torch but behave differently."""
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
    """Return MLX's model libraries, as `tools/mlx_models.py` read their sources.

    Raises:
        DataError: The data file is damaged.
    """
    file = _DATA / "mlx_models.json"
    try:
        return msgspec.json.decode(file.read_bytes(), type=list[MlxLibrary])
    except msgspec.DecodeError as problem:
        raise DataError(f"{file}: {problem}.", "Reinstall mpsprobe.") from problem


@functools.cache
def proofs() -> list[Proof]:
    """Return the parity runs that mpsprobe's authors made."""
    return toml.load(_DATA / "mlx_parity.toml", _Proofs).proofs
