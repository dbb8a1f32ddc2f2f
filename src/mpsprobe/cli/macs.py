"""`mpsprobe macs`: the catalogue of Macs against a model and a workload."""

from __future__ import annotations

import click

from mpsprobe.cli.options import takes
from mpsprobe.cli.sink import Sink, json_flag, pass_sink
from mpsprobe.options import Group, Settings


@click.command("macs")
@takes(Group.TARGET, Group.MAC, implied={"random_init": True})
@json_flag
@pass_sink
def command(sink: Sink, settings: Settings) -> None:
    """List which Macs fit MODEL, and how fast they are expected to run it.

    For every Mac of the catalogue: whether it fits easily, is tight or does not fit, the margin to Metal's recommended
    working set, the expected speed with its range, and the most bits with which MLX's weights fit easily. No weights
    are read or downloaded and nothing is computed. --mac has no meaning here.

    Exit codes: 0 some Mac fits it, 1 none does, 2 usage.
    """
    import torch as installed

    from mpsprobe.knowledge.ops import resolve_release
    from mpsprobe.prediction.macs import catalogue, text
    from mpsprobe.run import Fit

    release = resolve_release(settings.torch or str(installed.__version__))
    found = catalogue(settings, release, sink.remark)
    sink.result(text(found), found)
    fits = any(row.fit is not Fit.NO for row in found.rows)
    click.get_current_context().exit(0 if fits else 1)
