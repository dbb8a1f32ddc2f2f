"""What MPS kernels refuse although the op is registered: dtypes, ranks and sizes, by release and macOS.

There are three sources, and each result names its own: the dtypes that the backend accepts at all (read in the
wheel), the restrictions in `data/ops/limits.toml`, and PyTorch's own expected test failures.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from mpsprobe.errors import UsageError
from mpsprobe.knowledge import _pasted, ops
from mpsprobe.knowledge._kernel_limits import (
    GROUPS,
    Effect,
    Limit,
    Quantity,
    Rule,
    Tensors,
    all_rules,
    cast_rules,
    item_size,
    metal_only,
    moves,
)
from mpsprobe.knowledge._pasted import macos_version
from mpsprobe.run import TensorMeta

__all__ = [
    "EMPTY",
    "Effect",
    "Limit",
    "Quantity",
    "Restriction",
    "Rule",
    "Tensors",
    "UnknownDtypeError",
    "accepted",
    "all_rules",
    "check",
    "check_tensors",
    "item_size",
    "moves",
    "refused_copy",
    "rules",
    "scalar_type",
    "text",
    "usable",
]

_FLOAT8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
#: Every dtype of PyTorch.
DTYPES = frozenset(("bool", "float32", "float64", "float4_e2m1fn_x2", *_FLOAT8)).union(*GROUPS.values())
_ALIASES: Mapping[str, str] = {
    "half": "float16",
    "float": "float32",
    "double": "float64",
    "short": "int16",
    "int": "int32",
    "long": "int64",
    "cfloat": "complex64",
    "cdouble": "complex128",
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp32": "float32",
    "fp64": "float64",
}


#: The spelling of c10::ScalarType (c10/core/ScalarType.h), where it is not the capitalised name.
_SCALAR_TYPE = {
    **{f"uint{bits}": f"UInt{bits}" for bits in (16, 32, 64)},
    "float32": "Float",
    "float16": "Half",
    "bfloat16": "BFloat16",
    "float64": "Double",
    "int64": "Long",
    "int32": "Int",
    "int16": "Short",
    "int8": "Char",
    "uint8": "Byte",
    "complex32": "ComplexHalf",
    "complex64": "ComplexFloat",
    "complex128": "ComplexDouble",
}
#: Ops that copy a tensor into another, whose dtype may differ. Those of `_INTO` are recorded as (target, source).
_INTO = frozenset({"copy_", "copy"})
_COPIES = _INTO | {"_copy_from", "_copy_from_and_resize", "_to_copy", "to"}
#: getMPSDataType, aten/src/ATen/native/mps/OperationUtils.mm
_FLOAT64_IN_KERNEL = (
    "Cannot convert a float64 Tensor to MPS as the MPS framework doesn't support float64. "
    "Please use float32 instead."
)
_NO_SUPPORT = "Trying to convert {} to the MPS backend but it does not have support for that dtype."


#: Placeholder::Placeholder, aten/src/ATen/native/mps/OperationUtils.mm: an operand without memory. PyTorch's message
#: has the line number after the file, which differs by release.
EMPTY = (
    '[srcBuf length] > 0 INTERNAL ASSERT FAILED at "/Users/runner/work/pytorch/pytorch/pytorch/aten/src/ATen/native/'
    'mps/OperationUtils.mm", please report a bug to PyTorch. Placeholder tensor is empty!'
)


class UnknownDtypeError(UsageError):
    """A name is not a dtype of PyTorch."""


class Restriction(msgspec.Struct, frozen=True):
    """A restriction that a call meets, or would meet with certain arguments.

    Attributes:
        message: PyTorch's message, or a sentence of ours for a restriction known only from PyTorch's expected test
            failures.
        certain: False when the call may or may not meet it.
        source: Where the restriction was read.
        effect: What happens to the call.
        rule: The id of the rule; empty when it is not from `limits.toml`.
        error: Python's exception.
    """

    message: str
    certain: bool
    source: str
    effect: Effect = Effect.RAISES
    rule: str = ""
    error: str = "RuntimeError"


def scalar_type(dtype: str) -> str:
    """Return c10's name of a dtype, as PyTorch's messages write it: `"ComplexDouble"`, `"Float8_e4m3fn"`."""
    return _SCALAR_TYPE.get(dtype) or dtype[:1].upper() + dtype[1:]


def dtype_name(name: str) -> str:
    """Return PyTorch's name of a dtype: `"float16"` for `"torch.half"`, `"fp16"` or `"Float16"`.

    Raises:
        UnknownDtypeError: There is no such dtype.
    """
    plain = name.strip().lower().removeprefix("torch.")
    plain = _ALIASES.get(plain, plain)
    if plain not in DTYPES:
        raise UnknownDtypeError(f"{name}: not a dtype.", "For example float16, bfloat16, int64.")
    return plain


def accepted(torch: str, macos: str | None = None) -> frozenset[str]:
    """Return the dtypes that a tensor on MPS can have in this release.

    Args:
        torch: A version that `ops.resolve_release` accepts.
        macos: The version of macOS, such as `"13.6"`; None for one that is new enough for all of them.
    """
    dtypes = ops.release(torch).dtypes
    listed = frozenset(dtype for dtype, oldest in dtypes.items() if not (oldest and _older(macos, oldest)))
    return listed | {one.dtype for one in metal_only() if _reached(one.since, torch)}


def rules(op: str, torch: str, macos: str | None = None) -> tuple[Rule, ...]:
    """Return the restrictions on one overload in one release on one macOS.

    Args:
        op: An overload name in any spelling.
        torch: A version that `ops.resolve_release` accepts.
        macos: The version of macOS, such as `"13.6"`; None leaves out what applies only to older ones.
    """
    found = _rules_of(_pasted.qualified(op), ops.resolve_release(torch))
    return tuple(rule for rule in found if not rule.macos_below or _older(macos, rule.macos_below))


@functools.lru_cache(maxsize=8192)
def _rules_of(op: str, minor: str) -> tuple[Rule, ...]:
    names = {"*", op.removeprefix("aten::"), _pasted.base(op).removeprefix("aten::")}
    order = ops.releases().index
    at = order(minor)
    return tuple(
        rule
        for rule in (*all_rules(), *_test_failures(minor).get(op.removeprefix("aten::"), ()))
        if names.intersection(rule.ops)
        and (not rule.since or at >= order(rule.since))
        and (not rule.until or at <= order(rule.until))
    )


@functools.cache
def _test_failures(minor: str) -> Mapping[str, tuple[Rule, ...]]:
    """Return the dtypes in which PyTorch's own MPS tests of an op are expected to fail, as a rule for each such op.

    Only operator tests (OpInfos) whose samples compute a single op count. For an op that several of them test, only
    the dtypes count that fail in all of them.
    """
    refused: dict[str, frozenset[str]] = {}
    listed = ops.release(minor).unimplemented
    for name, called in _pasted.opinfo_ops().items():
        if len(called) == 1:
            dtypes = frozenset(listed.get(name.replace(":", ""), None) or ())
            refused[called[0]] = refused.get(called[0], dtypes) & dtypes
    return {
        op: (
            Rule(
                id=f"xfail-{op}",
                ops=(op,),
                dtypes=tuple(sorted(dtypes)),
                message=f"PyTorch's own MPS tests of {op} are expected to fail in this dtype.",
                source=f"UNIMPLEMENTED_XFAILLIST of common_mps.py in the {minor} wheel",
                certain=False,
            ),
        )
        for op, dtypes in refused.items()
        if dtypes
    }


def check(op: str, dtypes: Iterable[str], torch: str, macos: str | None = None) -> Restriction | None:
    """Return the restriction that a call with tensors of these dtypes meets; None for none.

    One that is certain comes before one that is possible. Rules about shapes are left to `check_tensors`.

    Args:
        op: An overload name in any spelling.
        dtypes: The dtypes of its tensor arguments, without the `torch.` prefix.
        torch: A version that `ops.resolve_release` accepts.
        macos: The version of macOS, such as `"13.6"`; None for one that is new enough for the release.

    Raises:
        UnknownReleaseError: There is no data on this release.
    """
    wanted = frozenset(dtypes)
    name = _pasted.base(_pasted.qualified(op)).removeprefix("aten::")
    found = [
        rule
        for rule in rules(op, torch, macos)
        if not rule.needs_shapes and (not rule.dtypes or wanted & rule.refused)
    ]
    refused = sorted(wanted - accepted(torch, macos))
    if refused and name not in moves() and not any(rule.certain for rule in found):
        return Restriction(
            _NO_SUPPORT.format(scalar_type(refused[0])),
            certain=True,
            source=f"getMPSDataType of the {ops.resolve_release(torch)} wheel",
            error="TypeError",
        )
    if not found and name not in moves():
        for one in metal_only():
            if one.dtype in wanted and name not in one.ops and _reached(one.since, torch):
                text = _NO_SUPPORT.format(scalar_type(one.dtype))
                return Restriction(text, certain=False, source=one.source)
    return _worst(found, wanted)


def check_tensors(
    op: str,
    inputs: Sequence[TensorMeta],
    outputs: Sequence[TensorMeta],
    torch: str,
    macos: str | None = None,
) -> Restriction | None:
    """Return the restriction that a recorded call meets, by its dtypes, shapes and devices; None for none.

    One on dtypes that is certain comes first, then one on shapes that is certain, then those that are possible. Of
    a copy only the dtypes and devices of source and target count.

    Raises:
        UnknownReleaseError: There is no data on this release.
    """
    if _base(op) in _COPIES:
        return _check_copy(op, inputs, outputs, torch, macos)
    by_dtype = check(op, {tensor.dtype for tensor in inputs}, torch, macos)
    if by_dtype is not None and by_dtype.certain:
        return by_dtype
    found = [rule for rule in rules(op, torch, macos) if rule.needs_shapes and rule.applies(inputs, outputs)]
    by_limit = _worst(found, {tensor.dtype for tensor in inputs})
    return by_limit if by_limit is not None and (by_limit.certain or by_dtype is None) else by_dtype


def refused_copy(
    source: str, target: str, torch: str, macos: str | None = None, *, rearranges: bool = False
) -> Restriction | None:
    """Return the restriction that a copy of memory on MPS meets, by its dtypes; None where the copy works.

    A copy that keeps dtype and layout moves bytes and accepts any dtype. A copy that casts, or one between tensors
    of which one is not contiguous, runs a kernel that must support both dtypes. Not for copies from the CPU: these
    cast there first, so that the dtype of the source does not matter.

    Args:
        source: The dtype that is read.
        target: The dtype that is written.
        torch: A version that `ops.resolve_release` accepts.
        macos: The version of macOS, such as `"13.6"`; None for one that is new enough for the release.
        rearranges: Whether source or target is not contiguous.
    """
    casts = source != target
    known = accepted(torch, macos)
    refused = next((dtype for dtype in (target, source) if dtype not in known), None)
    if refused is None or not (casts or rearranges):
        return None
    rule = next(
        one
        for one in cast_rules()
        if (not one.since or _reached(one.since, torch)) and not (one.until and _passed(one.until, torch))
    )
    said, error = (rule.message, rule.error) if casts else (rule.gathers, "RuntimeError")
    if refused == "float64" and said == _NO_SUPPORT:
        said = _FLOAT64_IN_KERNEL
    return Restriction(said.format(scalar_type(refused)), certain=True, source=rule.source, error=error)


def _check_copy(
    op: str, inputs: Sequence[TensorMeta], outputs: Sequence[TensorMeta], torch: str, macos: str | None
) -> Restriction | None:
    tensors = (*inputs, *outputs)
    if len(tensors) < 2:
        return check(op, {one.dtype for one in tensors}, torch, macos)
    target, source = (tensors[0], tensors[1]) if _base(op) in _INTO else (tensors[-1], tensors[0])
    if source.device != "cpu":
        refused = refused_copy(source.dtype, target.dtype, torch, macos)
        if refused is not None or target.device == "cpu":
            return refused
    return check(op, [target.dtype], torch, macos)


def usable(op: str, torch: str, macos: str | None = None) -> frozenset[str]:
    """Return the dtypes that the backend accepts and that no rule is certain to refuse for this op."""
    refused = (
        rule.refused
        for rule in rules(op, torch, macos)
        if rule.certain and not rule.needs_shapes and rule.dtypes
    )
    return accepted(torch, macos).difference(*refused)


def text(rule: Rule, dtypes: Iterable[str]) -> str:
    """Return a rule's message with `{dtype}` replaced by c10's name of the first refused dtype among `dtypes`."""
    refused = next((dtype for dtype in sorted(dtypes) if dtype in rule.refused), "")
    return rule.message.replace("{dtype}", scalar_type(refused))


def _worst(found: Sequence[Rule], dtypes: Iterable[str]) -> Restriction | None:
    if not found:
        return None
    rule = min(found, key=lambda rule: not rule.certain)
    source = rule.source or "a text in the wheel that the op's kernel can reach"
    return Restriction(text(rule, dtypes), rule.certain, source, rule.effect, rule.id, rule.error)


def _base(op: str) -> str:
    return _pasted.base(_pasted.qualified(op)).removeprefix("aten::")


def _passed(until: str, torch: str) -> bool:
    order = ops.releases().index
    return order(ops.resolve_release(torch)) > order(until)


def _reached(since: str, torch: str) -> bool:
    order = ops.releases().index
    return order(ops.resolve_release(torch)) >= order(since)


def _older(macos: str | None, than: str) -> bool:
    return macos is not None and macos_version(macos) < macos_version(than)
