"""The rules' eyes: one module a group of rules, each function shown the nodes it asked for."""

from mpsprobe.scan.detect import (
    attention,
    autocast,
    calls,
    choices,
    devices,
    dtypes,
    errors,
    imports,
    ops,
    processes,
    randomness,
)

__all__ = [
    "attention",
    "autocast",
    "calls",
    "choices",
    "devices",
    "dtypes",
    "errors",
    "imports",
    "ops",
    "processes",
    "randomness",
]
