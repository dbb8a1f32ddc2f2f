"""Options that several commands have, with the same meaning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])


def autocast_option(command: Function) -> Function:
    """`--autocast`: a region other than the profile's; `models.targets.check` refuses what has no meaning."""
    option = click.option(
        "--autocast",
        metavar="CHOICE",
        help="none, DTYPE, cpu:DTYPE or parts:DTYPE (bfloat16, float16).  [default: the profile's]",
    )
    return option(command)
