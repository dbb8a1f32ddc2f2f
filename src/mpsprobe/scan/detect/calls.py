"""Calls of torch.cuda and its companions: those that raise without CUDA and those that do nothing."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from mpsprobe.scan.detect.registry import on, on_call, on_torch_call
from mpsprobe.scan.site import Hit, Site, argument, text_of
from mpsprobe.scan.tables import torch_cuda


@on_torch_call
def torch_cuda_call(node: ast.Call, site: Site) -> Iterator[Hit]:
    """Every `torch.cuda.*` call that a Mac would make."""
    called = site.called
    if not called.startswith("torch.cuda."):
        return
    name = called.removeprefix("torch.cuda.")
    table = torch_cuda()
    if name in table.nothing:
        yield Hit("MPS104", node, f"{called}() does nothing on a Mac.")
    elif name in table.seeds:
        if not _is_seeded(site):
            yield Hit("MPS703", node, f"{called}() seeds nothing on a Mac.")
    elif site.failure_is_handled:
        return
    elif name in table.streams:
        yield Hit("MPS105", node, f"{called}() raises without CUDA.")
    elif name in table.raises:
        yield Hit("MPS103", node, f"{called}() raises without CUDA.")


def _is_seeded(site: Site) -> bool:
    """Whether the same function (or the module) also seeds every device."""
    return any(
        isinstance(node, ast.Call)
        and site.called_by(node) in ("torch.manual_seed", "torch.random.manual_seed")
        for node in ast.walk(site.scope.node)
    )


@on(ast.Subscript)
def default_generators(node: ast.Subscript, site: Site) -> Iterator[Hit]:
    """`torch.cuda.default_generators[i]`: the tuple is empty without CUDA."""
    if site.name(node.value) == "torch.cuda.default_generators" and not site.failure_is_handled:
        yield Hit("MPS103", node, "torch.cuda.default_generators is empty without CUDA: IndexError.")


@on(ast.keyword)
def pinned_by_keyword(node: ast.keyword, _site: Site) -> Iterator[Hit]:
    """`DataLoader(pin_memory=True)`."""
    if node.arg == "pin_memory" and isinstance(node.value, ast.Constant) and node.value.value is True:
        yield Hit("MPS108", node, "pin_memory=True gains nothing on a Mac.")


@on_call("pin_memory")
def pinned(node: ast.Call, site: Site) -> Iterator[Hit]:
    """`x.pin_memory()`."""
    if isinstance(node.func, ast.Attribute) and site.names.knows("torch"):
        yield Hit("MPS108", node, ".pin_memory() gains nothing on a Mac, and raises in older releases.")


@on_call("init_process_group", "new_group", "init_distributed")
def process_group(node: ast.Call, site: Site) -> Iterator[Hit]:
    """`init_process_group("nccl")`."""
    last = site.called.rpartition(".")[2]
    backend = argument(node, "backend", 2 if last == "new_group" else 0)
    text = text_of(site.value(backend)) if backend is not None else None
    if text is not None and text.lower() == "nccl" and not site.failure_is_handled:
        yield Hit("MPS109", node, f'{last}("nccl") raises on a Mac.')
