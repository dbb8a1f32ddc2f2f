"""Build a release file from a wheel."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping

from mpsprobe.knowledge._opfile import FORM, Kernel, ReleaseFile, Wheel
from op_support import scalars, schemas, texts, xfails
from op_support.callgraph import CallGraph
from op_support.machine import Machine
from op_support.macho import Image
from op_support.registration import FALLBACK, Registration
from op_support.registrations import read as read_registrations
from op_support.resolve import COMPOSITES, SPARSE_KEYS, Blockers, Dispatch, dispatch
from op_support.wheel import LIBRARY, Unpacked

_log = logging.getLogger("op_support")

#: Namespaces of ops that users see: ATen, and the ops of quantised models.
_NAMESPACES = ("aten", "mps", "quantized", "_quantized")
#: `at::autocast::CastPolicy` in the order of its values; a release may know fewer.
_CAST_POLICIES = ("fp16", "fp32", "fp32_set_opt_dtype", "fp32_append_dtype", "promote")
_CAST_POLICY = re.compile(r"10CastPolicyE(\d)E")
#: Calls on paths that a strided MPS tensor never takes, by the name of what is called.
_NOT_FOR_MPS = re.compile(
    r"aten::("
    r".*(mkldnn|cudnn|miopen).*"  # other backends
    r"|_scaled_dot_product_\w+_attention.*"  # MPS has its own; these are CUDA's and the CPU's
    r"|_?slow_conv.*"  # at::native::_convolution chooses them for devices without their own kernel
    r"|native_dropout"  # dropout() asks for CUDA or XPU first (is_fused_kernel_acceptable)
    r"|_validate_compressed_sparse_indices"  # sparse compressed layouts
    r")(\..*)?$"
)


def build(wheel: Unpacked) -> ReleaseFile:
    """Return the contents of a release file, read from one unpacked wheel.

    Raises:
        RuntimeError: The wheel is not as this tool expects, so that the facts would have to be guessed.
    """
    image = Image(wheel.root / LIBRARY)
    machine = Machine(image)
    registrations = read_registrations(machine)
    parsed = schemas.read(wheel.root)
    _compare_with_yaml(registrations, parsed)
    ops = {f"aten::{name}" for name in parsed.names}
    ops |= {r.op for r in registrations if r.op != FALLBACK and r.op.partition("::")[0] in _NAMESPACES}
    views = {f"aten::{name}" for name in parsed.views}
    kernels = dispatch(ops, views, wheel.python_kernels, registrations)
    graph = CallGraph(image)
    via, may_reach = _blockers(kernels, registrations, graph)
    return ReleaseFile(
        form=FORM,
        torch=".".join(wheel.version.split(".")[:2]),
        wheel=Wheel(wheel.file, wheel.sha256, wheel.version, wheel.git),
        minimum_macos=texts.minimum_macos(image.data),
        dtypes=_dtypes(machine, wheel),
        ops={
            kernel: [_short(op) for op, found in kernels.items() if found.kernel is kernel]
            for kernel in Kernel
        },
        via=via,
        may_reach=may_reach,
        messages=_messages(kernels, graph),
        autocast=_autocast(registrations),
        autograd=_of_key(registrations, "AutogradMPS"),
        sparse={key: listed for key in SPARSE_KEYS if (listed := _of_key(registrations, key))},
        unimplemented=xfails.unimplemented(wheel.root),
    )


def _compare_with_yaml(registrations: Iterable[Registration], parsed: schemas.Schemas) -> None:
    """Check that the library registers every kernel that the yaml file declares for MPS."""
    registered = {r.op.removeprefix("aten::") for r in registrations if r.key == "MPS" and r.op != FALLBACK}
    if not parsed.declared <= registered:
        raise RuntimeError(f"The library does not register {sorted(parsed.declared - registered)}.")
    _log.info("Registered by hand, beside the yaml file: %s", ", ".join(sorted(registered - parsed.declared)))


def _blockers(
    kernels: Mapping[str, Dispatch], registrations: Iterable[Registration], graph: CallGraph
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the missing ops that each composite certainly calls, and those that it calls on some path."""
    by_structure = {_structure(op): op for op in kernels}
    always: dict[str, list[str]] = {}
    sometimes: dict[str, list[str]] = {}
    for op, entry in kernels.items():
        if entry.kernel in COMPOSITES and entry.address is not None:
            always[op] = _ops(graph.always(entry.address), by_structure)
            sometimes[op] = _ops(graph.reach(entry.address).ops, by_structure)
    sparse = {r.op for r in registrations if r.key in SPARSE_KEYS}
    certain = Blockers(kernels, always, harmless=sparse)
    via = {op: sorted(found) for op in always if (found := certain.of(op))}
    # Missing ops that only tensors of another layout or device reach say nothing about a strided MPS tensor.
    elsewhere = sparse | {r.op for r in registrations if r.key == "QuantizedCPU"}
    possible = {
        op: frozenset(
            missing
            for other in called
            if other != op
            for missing in certain.of(other) - elsewhere
            if kernels[missing].kernel is Kernel.NONE and not _NOT_FOR_MPS.match(missing)
        )
        for op, called in sometimes.items()
        if op not in via
    }
    may_reach = _closed(possible, always)
    return _named(via), _named(may_reach)


def _closed(
    possible: Mapping[str, frozenset[str]], always: Mapping[str, Iterable[str]]
) -> dict[str, list[str]]:
    """Return `possible` extended by that of the ops that each op always calls; ops without any are left out."""
    found = dict(possible)
    changed = True
    while changed:
        changed = False
        for op, missing in found.items():
            below = missing.union(*(found.get(other, frozenset()) for other in always[op]))
            if below != missing:
                found[op] = below
                changed = True
    return {op: sorted(missing) for op, missing in found.items() if missing}


def _ops(structures: Iterable[str], by_structure: Mapping[str, str]) -> list[str]:
    return sorted(by_structure[name] for name in structures if name in by_structure)


def _structure(op: str) -> str:
    """Return the name of the op's C++ structure in `at::_ops`: `add_Tensor` for `aten::add.Tensor`."""
    return op.removeprefix("aten::").replace(".", "_")


def _messages(kernels: Mapping[str, Dispatch], graph: CallGraph) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {}
    for op, entry in kernels.items():
        if entry.kernel is Kernel.MPS and entry.address is not None:
            for text in graph.reach(entry.address).texts:
                message = texts.restriction(text)
                if message:
                    found.setdefault(message, set()).add(_short(op))
    return {message: sorted(ops) for message, ops in found.items() if len(ops) <= texts.MOST_OPS}


def _dtypes(machine: Machine, wheel: Unpacked) -> dict[str, str]:
    accepted = scalars.accepted(machine, wheel.root)
    newer = "" if all(accepted.values()) else texts.macos_of_newer_dtypes(machine.image.data)
    return {dtype: "" if everywhere else newer for dtype, everywhere in accepted.items()}


def _autocast(registrations: Iterable[Registration]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for registration in registrations:
        if registration.key == "AutocastMPS" and registration.op != FALLBACK:
            policy = _CAST_POLICY.search(registration.kernel)
            name = _CAST_POLICIES[int(policy[1])] if policy else "other"
            found.setdefault(name, []).append(_short(registration.op))
    return {policy: sorted(ops) for policy, ops in found.items()}


def _of_key(registrations: Iterable[Registration], key: str) -> list[str]:
    return sorted({_short(r.op) for r in registrations if r.key == key and r.op != FALLBACK})


def _named(found: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    return {_short(op): [_short(other) for other in others] for op, others in found.items()}


def _short(op: str) -> str:
    return op.removeprefix("aten::")
