"""Ops that misbehave on the device and are right on the CPU: `planted::abort`, `planted::nan` ...

A worker imports the package of an op's namespace, so this folder has only to be on its path.
"""

import collections
import ctypes
import itertools
import os
import sys
import time

import torch

_KEPT = []


def _allocate(x):
    while True:
        _KEPT.append(torch.ones(1 << 24))


def _say(text):
    sys.stderr.write(text)
    sys.stderr.flush()


def _raise(problem):
    raise problem


def _metal(x):
    _say("-[MTLDebugDevice newBufferWithLength:options:]: failed assertion `planted Metal assertion'\n")
    os.abort()


def _stderr(x):
    _say("planted: only words\n")
    return x.clone()


def _gpu_fault(x):
    _say("Error: command buffer exited with error status.\n\tThe Metal Performance Shaders operations encoded on it\n")
    return x.clone()


def _nan(x):
    result = x.clone()
    result.view(-1)[0] = float("nan")
    return result


def _wrong_once(x):
    result = x.clone()
    result.view(-1)[-1] += 0.5
    return result


_CALLS = itertools.count()

#: Name -> what the op does on the device.
FAULTS = {
    "abort": lambda _: os.abort(),
    "segfault": lambda _: ctypes.string_at(0),
    "kill": lambda _: os.kill(os.getpid(), 9),
    "quit": lambda _: os._exit(7),
    "metal": _metal,
    "loop": lambda _: time.sleep(3600),
    # a loop in C that keeps the interpreter's lock, as a hung kernel may
    "native_loop": lambda _: collections.deque(itertools.repeat(0), maxlen=0),
    "allocate": _allocate,
    "system_exit": lambda _: sys.exit(3),
    "interrupt": lambda _: _raise(KeyboardInterrupt()),
    "raises": lambda _: _raise(RuntimeError("planted: not on MPS")),
    "missing": lambda _: _raise(NotImplementedError("The operator 'planted::missing' is not implemented for MPS")),
    "surrogate": lambda _: _raise(RuntimeError("planted \ud800 on MPS")),
    "stderr": _stderr,
    "gpu_fault": _gpu_fault,
    "nan": _nan,
    "wrong": lambda x: x + 0.5,
    "one_wrong": _wrong_once,
    "zeros": lambda x: torch.zeros_like(x),
    "shape": lambda x: x.reshape(-1).clone(),
    "varies": lambda x: x + 1e-7 * (next(_CALLS) % 2),
    "sound": lambda x: x.clone(),
}

library = torch.library.Library("planted", "DEF")


def _define(name, fault):
    library.define(f"{name}(Tensor x) -> Tensor")

    def kernel(x):
        return x.clone() if x.device.type == "cpu" else fault(x)

    library.impl(name, kernel, "CompositeExplicitAutograd")


for _name, _fault in FAULTS.items():
    _define(_name, _fault)
    _define(f"beside_{_name}", FAULTS["sound"])
