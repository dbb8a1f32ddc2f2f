"""What MPS kernels refuse although the op is registered: dtypes, ranks and sizes, by release and macOS.

Three sources, each named in what is returned: the dtypes that the backend accepts at all (read from the
wheel), the restrictions in `data/ops/limits.toml`, and PyTorch's own expected test failures.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from mpsprobe import toml
from mpsprobe.knowledge import _opnames, ops
from mpsprobe.run import TensorMeta


class Effect(str, enum.Enum):
    """What the restriction does to a call."""

    RAISES = "raises"
    FALLBACK = "fallback"  #: runs on the CPU, with a warning
    CASTS = "casts"  #: computes in a smaller dtype, with a warning


class Quantity(str, enum.Enum):
    """What a limit counts, of one tensor."""

    RANK = "rank"  #: dimensions
    ELEMENTS = "elements"
    BYTES = "bytes"
    SIZE = "size"  #: the largest extent
    CHANNELS = "channels"  #: the extent of dimension 1


class Tensors(str, enum.Enum):
    """Which tensors of a call a limit looks at; one beyond it is enough."""

    INPUTS = "inputs"
    OUTPUTS = "outputs"
    ANY = "any"


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The most a kernel takes.

    Attributes:
        what: the quantity.
        most: its largest allowed value.
        of: the tensors looked at.
    """

    what: Quantity
    most: int
    of: Tensors = Tensors.ANY


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One restriction, as it stands in `limits.toml` or was made from PyTorch's lists.

    Attributes:
        id: unique.
        ops: base names or overload names without `aten::`; `"*"` is every op.
        message: PyTorch's text, up to values filled in.
        source: where it was read.
        since, until: first and last minor release with it; empty: as far as we know any.
        macos_below: holds on older systems only.
        dtypes: dtypes of tensors that it refuses; empty: any.
        limit: refused only beyond it.
        effect: what happens.
        certain: False: it holds on some path, or for arguments that are not described here.
    """

    id: str
    ops: tuple[str, ...]
    message: str
    source: str
    since: str = ""
    until: str = ""
    macos_below: str = ""
    dtypes: tuple[str, ...] = ()
    limit: Limit | None = None
    effect: Effect = Effect.RAISES
    certain: bool = True


class Restriction(msgspec.Struct, frozen=True):
    """A rule that a call meets.

    Attributes:
        message: PyTorch's text.
        certain: False: the call may raise it.
        source: where that was read.
        effect: what happens.
        rule: its id.
    """

    message: str
    certain: bool
    source: str
    effect: Effect = Effect.RAISES
    rule: str = ""


class _LimitsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rule: tuple[Rule, ...]


@functools.cache
def all_rules() -> tuple[Rule, ...]:
    """Every rule of `limits.toml`."""
    return toml.load(Path(__file__).parent / "data" / "ops" / "limits.toml", _LimitsFile).rule


def accepted(torch: str, macos: str | None = None) -> frozenset[str]:
    """Dtypes that a tensor on MPS can have in this release.

    Args:
        torch: a version that `ops.resolve_release` reads.
        macos: e.g. `"13.6"`; None: new enough for all of them.
    """
    dtypes = ops.release(torch).dtypes
    return frozenset(dtype for dtype, oldest in dtypes.items() if not _older(macos, oldest))


def rules(op: str, torch: str, macos: str | None = None) -> tuple[Rule, ...]:
    """The restrictions on one overload in one release on one system.

    Args:
        op: an overload name in any spelling.
        torch: a version that `ops.resolve_release` reads.
        macos: e.g. `"13.6"`; None leaves out what only holds on older systems.
    """
    minor = ops.resolve_release(torch)
    return tuple(rule for rule in _rules_of(_opnames.qualified(op), minor) if _on(rule, macos))


@functools.lru_cache(maxsize=8192)
def _rules_of(op: str, minor: str) -> tuple[Rule, ...]:
    short = op.removeprefix("aten::")
    names = {"*", short, _opnames.base(op).removeprefix("aten::")}
    order = ops.releases().index
    return tuple(
        rule
        for rule in all_rules()
        if names.intersection(rule.ops)
        and (not rule.since or order(minor) >= order(rule.since))
        and (not rule.until or order(minor) <= order(rule.until))
    )


def check(op: str, dtypes: Iterable[str], torch: str, macos: str | None = None) -> Restriction | None:
    """The restriction that a call with tensors of these dtypes meets, a certain one before an uncertain one.

    Rules with a limit need shapes: see `check_tensors`.

    Args:
        op: an overload name in any spelling.
        dtypes: of its tensor arguments, without the `torch.` prefix.
        torch: a version that `ops.resolve_release` reads.
        macos: e.g. `"13.6"`; None: new enough for everything the release can do.
    """
    wanted = set(dtypes)
    found = [
        rule for rule in rules(op, torch, macos) if rule.limit is None and wanted.intersection(rule.dtypes)
    ]
    refused = sorted(wanted - accepted(torch, macos))
    if refused and not any(rule.certain for rule in found):
        text = (
            f"Trying to convert {refused[0]} to the MPS backend but it does not have support for that dtype."
        )
        return Restriction(
            text, True, f"getMPSScalarType of the {ops.resolve_release(torch)} wheel", rule="accepted"
        )
    return _worst(found)


def check_tensors(
    op: str,
    inputs: Sequence[TensorMeta],
    outputs: Sequence[TensorMeta],
    torch: str,
    macos: str | None = None,
) -> Restriction | None:
    """`check` with shapes: the restriction that a recorded call meets."""
    by_dtype = check(op, {tensor.dtype for tensor in inputs}, torch, macos)
    if by_dtype is not None and by_dtype.certain:
        return by_dtype
    found = [
        rule for rule in rules(op, torch, macos) if rule.limit and _beyond(rule, rule.limit, inputs, outputs)
    ]
    return _worst(found) or by_dtype


def _beyond(rule: Rule, limit: Limit, inputs: Sequence[TensorMeta], outputs: Sequence[TensorMeta]) -> bool:
    looked_at = {
        Tensors.INPUTS: list(inputs),
        Tensors.OUTPUTS: list(outputs),
        Tensors.ANY: [*inputs, *outputs],
    }[limit.of]
    if rule.dtypes and not any(tensor.dtype in rule.dtypes for tensor in looked_at):
        return False
    return any(_amount(limit.what, tensor) > limit.most for tensor in looked_at)


def _amount(what: Quantity, tensor: TensorMeta) -> int:
    if what is Quantity.RANK:
        return len(tensor.shape)
    if what is Quantity.SIZE:
        return max(tensor.shape, default=0)
    if what is Quantity.CHANNELS:
        return tensor.shape[1] if len(tensor.shape) > 1 else 0
    elements = 1
    for extent in tensor.shape:
        elements *= extent
    return elements if what is Quantity.ELEMENTS else elements * item_size(tensor.dtype)


def item_size(dtype: str) -> int:
    """Bytes of one element of a dtype named as torch names it.

    Raises:
        KeyError: not a dtype with a size in its name.
    """
    if dtype == "bool":
        return 1
    digits = dtype.removeprefix("b").lstrip("abcdefghijklmnopqrstuvwxyz").partition("_")[0]
    if not digits.isdigit():
        raise KeyError(dtype)
    return int(digits) // 8


def _worst(found: Sequence[Rule]) -> Restriction | None:
    if not found:
        return None
    rule = min(found, key=lambda rule: not rule.certain)
    return Restriction(rule.message, rule.certain, rule.source, rule.effect, rule.id)


def _on(rule: Rule, macos: str | None) -> bool:
    return not rule.macos_below or _older(macos, rule.macos_below)


def _older(macos: str | None, than: str) -> bool:
    if not macos or not than:
        return False
    return _version(macos) < _version(than)


def _version(macos: str) -> tuple[int, int]:
    major, _, rest = macos.partition(".")
    minor = rest.partition(".")[0]
    return int(major), int(minor) if minor else 0
