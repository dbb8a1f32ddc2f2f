"""Ops that the target torch release lacks, or computes wrongly, on MPS."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from mpsprobe.scan.detect.dtypes import on_cpu
from mpsprobe.scan.position import Hit, Position, argument, on_call, on_in_place_call, on_torch_call, text_of

#: Missing ops that create a tensor from numbers, by default on the CPU.
_FACTORIES = {"torch.logspace", "torch.from_file"}
_VIEWS = {
    "transpose", "permute", "t", "expand", "expand_as", "swapaxes", "swapdims", "movedim", "moveaxis", "diagonal",
    "unfold", "narrow", "adjoint",
}  # fmt: skip
_VIEW_ATTRIBUTES = {"T", "mT", "H", "mH"}


@on_torch_call
def missing_op(node: ast.Call, position: Position) -> Iterator[Hit]:
    """Report a call of a torch function that has no MPS kernel in the release, unless it runs on the CPU."""
    called = position.called
    missing = position.release.missing(called)
    if missing is not None and not _is_on_cpu(node, position):
        op, helps = missing
        fallback = (
            "PYTORCH_ENABLE_MPS_FALLBACK=1 runs it on the CPU"
            if helps
            else "the fallback variable does not help"
        )
        yield Hit(
            "MPS802", node, f"{called} ({op}) is not on MPS in torch {position.release.torch}; {fallback}."
        )


def _is_on_cpu(node: ast.Call, position: Position) -> bool:
    """Return whether a call states the CPU as its device, creates on the CPU by default, or gets a CPU tensor first."""
    device = argument(node, "device")
    if device is not None:
        return text_of(position.value(device)) == "cpu"
    return position.called in _FACTORIES or (bool(node.args) and on_cpu(node.args[0], position))


#: Distributions of torch.distributions whose samples are drawn by an op on the device of their parameters.
_DRAWN_BY = {
    "Beta": "torch._sample_dirichlet",
    "Dirichlet": "torch._sample_dirichlet",
    "Gamma": "torch._standard_gamma",
    "Chi2": "torch._standard_gamma",
    "StudentT": "torch._standard_gamma",
    "FisherSnedecor": "torch._standard_gamma",
    "InverseGamma": "torch._standard_gamma",
}


@on_call(*_DRAWN_BY)
def distribution(node: ast.Call, position: Position) -> Iterator[Hit]:
    """Report a distribution, such as `torch.distributions.Beta`, whose sampling op MPS lacks in the release (MPS802).

    Samples are drawn on the device of the parameters, so a call whose parameters are all on the CPU is left out.
    """
    kind = position.called.rpartition(".")[2]
    if not position.called.startswith("torch.distributions"):
        return
    missing = position.release.missing(_DRAWN_BY[kind])
    if missing is None or all(_on_cpu(one, position) for one in node.args):
        return
    op, helps = missing
    fallback = (
        "PYTORCH_ENABLE_MPS_FALLBACK=1 draws on the CPU" if helps else "the fallback variable does not help"
    )
    yield Hit(
        "MPS802",
        node,
        f"{kind}.sample() calls {op}, which is not on MPS in torch {position.release.torch}; {fallback}.",
        fix=f"Make {kind}'s parameters on the CPU and move the sample, or use a torch release that has {op}.",
    )


def _on_cpu(node: ast.expr, position: Position) -> bool:
    """Return whether a parameter is on the CPU: a number, or a tensor that is created there."""
    value = position.value(node)
    if isinstance(value, ast.Constant):
        return True
    made = isinstance(value, ast.Call) and position.called_by(value) in (
        "torch.tensor",
        "torch.Tensor",
        "torch.as_tensor",
    )
    return on_cpu(node, position) or (made and argument(value, "device") is None)  # type: ignore[arg-type]


@on_call("grid_sample")
def sampled_beyond_the_border(node: ast.Call, position: Position) -> Iterator[Hit]:
    """Report `F.grid_sample` with border padding or bicubic interpolation, which raises on some releases."""
    if not position.called.startswith("torch.nn.functional"):
        return
    padding = (
        text_of(position.value(found)) if (found := argument(node, "padding_mode", 3)) is not None else None
    )
    mode = text_of(position.value(found)) if (found := argument(node, "mode", 2)) is not None else None
    advisory = position.release.advisory("grid-sample-border-raises")
    if advisory is not None and (padding == "border" or mode == "bicubic"):
        asked = 'padding_mode="border"' if padding == "border" else 'mode="bicubic"'
        yield Hit(
            "MPS803",
            node,
            f"grid_sample with {asked} may raise on MPS in torch {position.release.torch} ({advisory.id}).",
            fix=advisory.fix,
            links=tuple(advisory.links),
        )


@on_in_place_call
def in_place_on_view(node: ast.Call, position: Position) -> Iterator[Hit]:
    """Report an in-place op on a view, which some releases compute wrongly: `x.t().normal_()`."""
    if not isinstance(node.func, ast.Attribute):
        return
    advisory = position.release.in_place_on_views.get(node.func.attr)
    if advisory is not None and _is_strided(node.func.value):
        yield Hit(
            "MPS801",
            node,
            f".{node.func.attr}() on a non-contiguous view ({advisory.id}).",
            why=f"{advisory.title}.",
            fix=advisory.fix,
            links=tuple(advisory.links),
        )


def _is_strided(node: ast.expr) -> bool:
    """Return whether an expression is a view that is not contiguous where the tensor has more than one dimension."""
    if isinstance(node, ast.Attribute):
        return node.attr in _VIEW_ATTRIBUTES or (node.attr == "data" and _is_strided(node.value))
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute) and node.func.attr in _VIEWS
    if isinstance(node, ast.Subscript):
        if isinstance(node.slice, ast.Slice):
            return node.slice.step is not None
        if isinstance(node.slice, ast.Tuple):
            return any(_cuts(part) for part in node.slice.elts[1:])
    return False


def _cuts(part: ast.expr) -> bool:
    """Return whether an index is an integer or a slice with a bound, which makes a view of a part of the dimension."""
    if isinstance(part, ast.Slice):
        return any(bound is not None for bound in (part.lower, part.upper, part.step))
    return isinstance(part, ast.Constant) and isinstance(part.value, int) and not isinstance(part.value, bool)
