"""The options of `mpsprobe.options` as click options; a command names the groups that it takes."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from mpsprobe import options
from mpsprobe.cli.sink import Sink
from mpsprobe.options import Group, Option, OptionSource

Function = TypeVar("Function", bound=Callable[..., Any])

#: The value of `--torch` with which `mpsprobe predict` covers every release.
EVERY_RELEASE = "all"


class _Switch(click.Option):
    """A switch whose `--no-` form, which overrides pyproject.toml, is left out of the help."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        return None if record is None else (self.opts[0], record[1])


def takes(
    *groups: Group,
    model_required: bool = False,
    every_release: bool = False,
    implied: Mapping[str, options.Value] | None = None,
) -> Callable[[Function], Function]:
    """Give a command the options of some groups, and call it with the `settings` made of them.

    Args:
        groups: The groups; with `Group.TARGET` the command takes the argument MODEL.
        model_required: Whether the command has no default target.
        every_release: Whether `--torch all` is accepted; the command is then also called with `every_release`.
        implied: Settings that this command always has; it accepts their options, and its help leaves them out.
    """
    taken = options.in_groups(*groups)

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            given = {one.name: kwargs.pop(one.name) for one in taken}
            if every_release:
                kwargs["every_release"] = given["torch"] == EVERY_RELEASE
                given["torch"] = None if given["torch"] == EVERY_RELEASE else given["torch"]
            project = _of_project({one.name for one in taken}, given)
            settings = options.settings(OptionSource("", {**given, **(implied or {})}), project)
            return function(*args, settings=settings, **kwargs)

        for one in reversed(taken):
            call = _add(
                call, one, model_required=model_required, every_release=every_release, implied=implied or {}
            )
        return call  # type: ignore[return-value]

    return decorate


def _add(
    call: Function,
    one: Option,
    *,
    model_required: bool,
    every_release: bool,
    implied: Mapping[str, options.Value],
) -> Function:
    """Give a function the argument or option `one`; the help leaves out what the command implies."""
    help_ = one.help
    for name in implied:
        head, prefix, rest = help_.partition(f"With --{name.replace('_', '-')}: ")
        help_ = f"{rest[:1].upper()}{rest[1:]}" if prefix and not head else help_
    hidden = one.name in implied
    if one.name == "model":
        return click.argument(one.name, required=model_required, shell_complete=_files)(call)
    if one.type is bool:
        cls = _Switch if one.is_switch else click.Option
        return click.option(
            f"--{one.dashed}/--no-{one.dashed}", default=None, help=help_, hidden=hidden, cls=cls
        )(call)
    metavar = f"{one.metavar}|{EVERY_RELEASE}" if one.name == "torch" and every_release else one.metavar
    kind = click.IntRange(one.least) if one.type is int else one.type
    complete = _files if one.is_file else functools.partial(_values, one)
    return click.option(
        f"--{one.dashed}", metavar=metavar, type=kind, help=help_, hidden=hidden, shell_complete=complete
    )(call)


def _files(_ctx: click.Context, _param: click.Parameter, begun: str) -> list[CompletionItem]:
    """Leave the completion of a path to the shell."""
    return [CompletionItem(begun, type="file")]


def _values(one: Option, _ctx: click.Context, _param: click.Parameter, begun: str) -> list[CompletionItem]:
    """Return those values of an option that a shell completes what was typed to."""
    values: Iterable[str] = one.choices
    if one.name == "mac":
        from mpsprobe.mac import catalogue

        full = catalogue.names()
        values = dict.fromkeys(
            [*(re.sub(r"-\d+c-", "-", name) for name in full), *full]
        )  # cores are optional
    elif one.name == "torch":
        from mpsprobe.knowledge import ops

        values = ops.releases()
    return [CompletionItem(value) for value in values if value.startswith(begun)]


def _of_project(taken: set[str], given: Mapping[str, options.Value]) -> OptionSource:
    """Return those options of pyproject.toml that this command takes, and tell the user that they are used."""
    found = options.of_project(Path.cwd(), code=False)
    values = {name: value for name, value in found.values.items() if name in taken}
    used = [
        f"{name.replace('_', '-')} = {value}" for name, value in values.items() if given.get(name) is None
    ]
    context = click.get_current_context(silent=True)
    sink = context.find_object(Sink) if context is not None else None
    if used and sink is not None:
        sink.remark(f"{found.where}: {', '.join(used)}")
    return OptionSource(found.where, values)
