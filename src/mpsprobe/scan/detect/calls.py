"""Calls of torch.cuda and its companions: those that raise without CUDA and those that do nothing."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from mpsprobe.scan.detect.registry import on
from mpsprobe.scan.site import Hit, Site, argument, text_of
from mpsprobe.scan.tables import torch_cuda


@on(ast.Call)
def torch_cuda_call(node: ast.Call, site: Site) -> Iterator[Hit]:
    """Every `torch.cuda.*` call that a Mac would make."""
    called = site.called(node)
    if not called.startswith("torch.cuda."):
        return
    name = called.removeprefix("torch.cuda.")
    table = torch_cuda()
    if name in table.nothing:
        yield Hit("MPS104", node, f"{called}() does nothing on a Mac.")
    elif name in table.seeds:
        yield Hit("MPS703", node, f"{called}() seeds nothing on a Mac.")
    elif site.failure_is_handled:
        return
    elif name in table.streams:
        yield Hit("MPS105", node, f"{called}() raises without CUDA.")
    elif name in table.raises:
        yield Hit("MPS103", node, f"{called}() raises without CUDA.")


@on(ast.Subscript)
def default_generators(node: ast.Subscript, site: Site) -> Iterator[Hit]:
    """`torch.cuda.default_generators[i]`: the tuple is empty without CUDA."""
    if site.name(node.value) == "torch.cuda.default_generators" and not site.failure_is_handled:
        yield Hit("MPS103", node, "torch.cuda.default_generators is empty without CUDA: IndexError.")


@on(ast.Call)
def pinned(node: ast.Call, site: Site) -> Iterator[Hit]:
    """`DataLoader(pin_memory=True)` and `x.pin_memory()`."""
    value = argument(node, "pin_memory")
    if isinstance(value, ast.Constant) and value.value is True:
        loader = site.called(node).endswith("DataLoader")
        told = "warns and leaves it out" if loader else "gains nothing"
        yield Hit("MPS108", node, f"pin_memory=True {told} on a Mac.")
    elif isinstance(node.func, ast.Attribute) and node.func.attr == "pin_memory" and site.names.knows("torch"):
        yield Hit("MPS108", node, ".pin_memory() gains nothing on a Mac, and raises in older releases.")


@on(ast.Call)
def process_group(node: ast.Call, site: Site) -> Iterator[Hit]:
    """`init_process_group("nccl")`."""
    last = site.called(node).rpartition(".")[2]
    if last in ("init_process_group", "new_group", "init_distributed"):
        backend = argument(node, "backend", 0)
        text = text_of(site.value(backend)) if backend is not None else None
        if text is not None and text.lower() == "nccl" and not site.failure_is_handled:
            yield Hit("MPS109", node, f'{last}("nccl") raises on a Mac.')
