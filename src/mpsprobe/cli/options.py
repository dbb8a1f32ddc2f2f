"""Options that several commands have, with the same meaning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])


def build_options(command: Function) -> Function:
    """How a target without its weights is built: `models.targets.check` refuses what does not go together."""
    options = [
        click.option(
            "--random-init", is_flag=True, help="Random weights, from the config alone: no download."
        ),
        click.option(
            "--shrink", is_flag=True, help="With --random-init: fewer layers and experts; says what it cut."
        ),
        click.option(
            "--config", type=click.Path(dir_okay=False), help="JSON config for package.module:Class."
        ),
        click.option(
            "--trust-remote-code", is_flag=True, help="Run the repository's own code; says which first."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def autocast_option(command: Function) -> Function:
    """`--autocast`: a region other than the profile's; `models.targets.check` refuses what has no meaning."""
    option = click.option(
        "--autocast",
        metavar="CHOICE",
        help="none, DTYPE, cpu:DTYPE or parts:DTYPE (bfloat16, float16).  [default: the profile's]",
    )
    return option(command)
