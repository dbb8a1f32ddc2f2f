"""Will this model run on that Mac, how well, and what should its owner do?

    mpsprobe.predict("org/model", mac="m1-max-64")   predict a run on a Mac, without weights or device
    mpsprobe.emulate(torch="2.8", memory_gb=64)      use `mps` on this machine, with real values and a Mac's
    refusals
    mpsprobe.memoryless(torch="2.8")                 do the same without memory, for models of any size
    mpsprobe.record(model)                           record every op that runs, with shapes, module and line
    mpsprobe.explain(text)                           explain an error, a warning or a log

Each name is imported when it is first used: `import mpsprobe` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpsprobe.device.virtual.session import emulate
    from mpsprobe.device.virtual.session import predict as memoryless
    from mpsprobe.knowledge.explain import explain as explain
    from mpsprobe.models.adapter import Adapter as Adapter
    from mpsprobe.run import Run
    from mpsprobe.trace.dispatch import record

__version__ = "0.1.0"
__all__ = ["Adapter", "__version__", "emulate", "explain", "memoryless", "predict", "record"]

#: The module that defines each public name, and its name there.
_FACE = {
    "Adapter": ("mpsprobe.models.adapter", "Adapter"),
    "emulate": ("mpsprobe.device.virtual.session", "emulate"),
    "explain": ("mpsprobe.knowledge.explain", "explain"),
    "memoryless": ("mpsprobe.device.virtual.session", "predict"),
    "record": ("mpsprobe.trace.dispatch", "record"),
}


def predict(model: str | None = None, **options: Any) -> Run:
    """Predict what a Mac would do with a model, without weights, a device, or a download of weights.

    Args:
        model: A repo id, a local folder with config.json, `package.module:Class` or `./target.py`; None for the
            default target.
        **options: Any option of `mpsprobe predict`, by its name with underscores: `mac="m1-max-64"`, `torch="2.8"`,
            `macos="15.5"`, `fallback=True`, `dtype="float16"`, `shrink=True`, `offline=True` and so on.

    Returns:
        The run: `op_uses` with their verdicts, `predicted`, and `outlook` with memory, time, routes and a
        recommendation where `mac` is given. `mpsprobe.report.write(run, folder)` draws its reports.

    Raises:
        mpsprobe.errors.MpsprobeError: An option or the model cannot be used; the error is one line, with what
            to do.
    """
    from mpsprobe.options import Settings, check_names
    from mpsprobe.prediction import command

    check_names(options)
    settings = Settings(model=model, **{"random_init": True, **options})
    return command.predict(settings, routes=settings.mac is not None)


def __getattr__(name: str) -> Any:
    # The command line must start without torch.
    if name not in _FACE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _FACE[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
