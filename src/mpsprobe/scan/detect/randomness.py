"""Random generators on the wrong device."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from mpsprobe.scan.detect.devices import cuda_text
from mpsprobe.scan.detect.registry import on, on_call
from mpsprobe.scan.site import Hit, Site, argument, text_of


@on_call("Generator")
def cuda_generator(node: ast.Call, site: Site) -> Iterator[Hit]:
    """`torch.Generator(device="cuda")`."""
    if site.called == "torch.Generator" and not site.failure_is_handled:
        text = cuda_text(argument(node, "device", 0), site)
        if text is not None:
            yield Hit("MPS701", node, f"torch.Generator({text}) raises without CUDA.")


@on(ast.keyword)
def cpu_generator(node: ast.keyword, site: Site) -> Iterator[Hit]:
    """`torch.randn(2, generator=g, device=device)` with a generator that lives on the CPU."""
    call = site.parents[-1]
    if node.arg != "generator" or not isinstance(call, ast.Call):
        return
    generator, device = node.value, argument(call, "device")
    if device is None or not site.called_by(call).startswith("torch."):
        return
    place = site.value(device)
    if text_of(place) == "cpu" or (isinstance(place, ast.Constant) and place.value is None):
        return
    if _is_on_cpu(generator, site):
        yield Hit("MPS702", node, f"A CPU generator, and a device ({ast.unparse(device)}) that may be MPS.")


def _is_on_cpu(node: ast.expr, site: Site) -> bool:
    """Whether an expression is `torch.Generator()` or `torch.Generator("cpu")`, seeded or not."""
    node = site.value(node)
    while isinstance(node, ast.Call):
        if site.called_by(node) == "torch.Generator":
            device = argument(node, "device", 0)
            return device is None or text_of(site.value(device)) == "cpu"
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("manual_seed", "set_state"):
            node = site.value(node.func.value)
            continue
        return False
    return False
