"""Flash attention asked for by name, and CUDA extensions built on the spot."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from mpsprobe.scan.detect.registry import on, on_call
from mpsprobe.scan.finding import Severity
from mpsprobe.scan.scope import Function
from mpsprobe.scan.site import Hit, Site, argument, text_of

_FLASH = re.compile(r"flash_attention_[23]$|kernels-community/(vllm-)?flash-attn")
_NAMES = {"attn_implementation", "_attn_implementation", "attention_implementation"}
_FLAGS = re.compile(r"use_flash_?(attn|attention)(_?2)?$|flash_attn$|use_flash$")
_BUILDERS = {"torch.utils.cpp_extension.load", "torch.utils.cpp_extension.load_inline"}


def _is_flash(node: ast.expr | None) -> bool:
    return _FLASH.match(text_of(node) or "") is not None


@on(ast.keyword)
def asked_by_keyword(node: ast.keyword, site: Site) -> Iterator[Hit]:
    """`from_pretrained(..., attn_implementation="flash_attention_2")`."""
    if node.arg in _NAMES and _is_flash(node.value) and not site.failed_import_is_handled:
        yield Hit("MPS403", node, f"{ast.unparse(node)} needs flash_attn.")
    elif node.arg and _FLAGS.fullmatch(node.arg) and _true(node.value) and not site.conditions:
        yield Hit("MPS403", node, f"{node.arg}=True needs flash_attn.", Severity.WARNING)


@on_call("get", "pop", "getattr")
def asked_by_fallback(node: ast.Call, _site: Site) -> Iterator[Hit]:
    """`kwargs.get("attn_implementation", "flash_attention_2")`."""
    if len(node.args) >= 2:
        name = text_of(node.args[-2])
        if name in _NAMES and _is_flash(node.args[-1]):
            yield Hit("MPS403", node, f"{name!r} is flash attention unless it is given.")


@on(ast.Assign)
def asked_in_assignment(node: ast.Assign, site: Site) -> Iterator[Hit]:
    """`config._attn_implementation = "flash_attention_2"`."""
    for target in node.targets:
        name = target.id if isinstance(target, ast.Name) else getattr(target, "attr", "")
        if name in _NAMES and _is_flash(node.value) and not site.conditions:
            yield Hit("MPS403", node, f"{name} is set to {ast.unparse(node.value)}.")


@on(ast.FunctionDef, ast.AsyncFunctionDef)
def asked_by_default(node: Function, _site: Site) -> Iterator[Hit]:
    """`def __init__(self, use_flash_attn=True)`."""
    arguments = [*node.args.posonlyargs, *node.args.args]
    pairs: list[tuple[ast.arg, ast.expr | None]] = [
        *zip(arguments[len(arguments) - len(node.args.defaults) :], node.args.defaults, strict=True),
        *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True),
    ]
    for parameter, default in pairs:
        if default is None:
            continue
        if parameter.arg in _NAMES and _is_flash(default):
            yield Hit("MPS403", default, f"{parameter.arg} defaults to {ast.unparse(default)}.")
        elif _FLAGS.fullmatch(parameter.arg) and _true(default):
            yield Hit("MPS403", default, f"{parameter.arg} defaults to True.", Severity.WARNING)


@on_call("CUDAExtension", "load", "load_inline")
def cuda_build(node: ast.Call, site: Site) -> Iterator[Hit]:
    """`torch.utils.cpp_extension.load(sources=["kernel.cu"])` and `CUDAExtension(...)`."""
    called = site.called
    if called == "torch.utils.cpp_extension.CUDAExtension":
        if not site.conditions:
            yield Hit("MPS404", node, "CUDAExtension needs nvcc.")
    elif called in _BUILDERS and _has_cuda(node, site) and not site.failure_is_handled:
        yield Hit("MPS404", node, f"{called.rpartition('.')[2]}() compiles CUDA sources.")


def _has_cuda(node: ast.Call, site: Site) -> bool:
    if any(keyword.arg in ("cuda_sources", "extra_cuda_cflags") for keyword in node.keywords):
        return True
    with_cuda = argument(node, "with_cuda")
    if with_cuda is not None and _true(with_cuda):
        return True
    sources = argument(node, "sources", 1)
    sources = site.value(sources) if sources is not None else None
    return sources is not None and any(
        (text_of(n) or "").endswith(".cu") for n in ast.walk(sources) if isinstance(n, ast.Constant)
    )


def _true(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is True
