"""Facts that the installed torch states about itself. The module can be imported without a working torch."""

from __future__ import annotations

from mpsprobe.mac.unavailable import TorchFacts


def torch_facts() -> TorchFacts:
    """Import the installed torch, and return its version and whether MPS is built in and available.

    Where the import fails, the version is None and `broken` gives the reason; `broken` is empty when torch is not
    installed.
    """
    try:
        import torch
    except ModuleNotFoundError as problem:
        return TorchFacts(None, broken="" if problem.name == "torch" else str(problem))
    except (ImportError, OSError) as problem:  # a wheel of another architecture fails in dlopen
        return TorchFacts(None, broken=str(problem).splitlines()[0])
    return TorchFacts(
        version=str(torch.__version__),
        built=torch.backends.mps.is_built(),
        available=torch.backends.mps.is_available(),
    )
