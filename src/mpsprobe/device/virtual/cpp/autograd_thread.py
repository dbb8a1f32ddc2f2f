"""The autograd engine's thread for the virtual device.

`torch::autograd::Engine` starts one thread per device at the first backward of the process and never again.
If that was before the virtual device came, gradients on `mps:0` find no queue (an assertion in engine.cpp,
"device.index() < device_ready_queues_.size()"). The thread stays when the virtual device goes: it sleeps, as
a Mac's does.
"""

from __future__ import annotations

import ctypes

import torch

from mpsprobe.device.virtual.cpp import native

_PREFIX = "_ZN5torch8autograd6Engine"
_started = False


def start_thread() -> None:
    """Make sure that the engine has a queue for `mps:0`, while guard, hooks and kernels are installed."""
    global _started  # one engine a process
    if _started:
        return
    lib = native.library("libtorch_cpu.so")
    get_engine = lib[f"{_PREFIX}18get_default_engineEv"]
    get_engine.restype = ctypes.c_void_p
    this = ctypes.c_void_p(get_engine())
    # starts the threads unless that was done before; which of the two it was cannot be asked, so a gradient
    # is tried
    lib[f"{_PREFIX}30initialize_device_threads_poolEv"](this)
    try:
        leaf = torch.zeros((), device="mps", requires_grad=True)
        torch.autograd.backward(leaf.clone())
    except RuntimeError as problem:
        if "device_ready_queues_" not in str(problem):
            raise
        lib[f"{_PREFIX}20start_device_threadsEv"](this)
    _started = True
