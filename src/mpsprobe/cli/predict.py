"""`mpsprobe predict`: what a Mac would do with a model, from its config alone."""

from __future__ import annotations

from pathlib import Path

import click

from mpsprobe.cli.options import autocast_option
from mpsprobe.cli.sink import Sink, json_flag, pass_sink


@click.command("predict")
@click.argument("model", required=False)
@click.option(
    "--config", type=click.Path(dir_okay=False, path_type=Path), help="JSON config for package.module:Class."
)
@click.option("--torch", metavar="RELEASE|all", help="The release asked about.  [default: the installed]")
@click.option("--macos", metavar="VERSION", help="The macOS asked about.")
@click.option("--mac", metavar="NAME", help="The Mac asked about, e.g. m1-max-64.")
@click.option("--fallback/--no-fallback", default=None, help="PYTORCH_ENABLE_MPS_FALLBACK on that Mac.")
@click.option("--dtype", metavar="DTYPE", help="Of the weights, e.g. float16.  [default: the config's]")
@autocast_option
@click.option("--new-tokens", type=click.IntRange(1), help="To generate.  [default: 8, or the profile's]")
@click.option(
    "--tokens",
    type=click.IntRange(1),
    help="Forecast memory and time for so many new tokens, carried on from those generated.",
)
@click.option(
    "--calibration",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="A file of mpsprobe calibrate: forecast its device too.  [default: the one of this machine]",
)
@click.option("--shrink", is_flag=True, help="Fewer layers and experts, all else the same; says what it cut.")
@click.option("--profile", metavar="NAME|FILE", help="A profile by name, or your own .toml file.")
@click.option("--revision", metavar="REV", help="Commit, tag or branch of a repo id.")
@click.option("--trust-remote-code", is_flag=True, help="Run the repository's own code; says which first.")
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder for run.json and its reports."
)
@json_flag
@pass_sink
def command(
    sink: Sink,
    model: str | None,
    config: Path | None,
    torch: str | None,
    macos: str | None,
    mac: str | None,
    fallback: bool | None,
    dtype: str | None,
    autocast: str | None,
    new_tokens: int | None,
    tokens: int | None,
    calibration: Path | None,
    shrink: bool,
    profile: str | None,
    revision: str | None,
    trust_remote_code: bool,
    output: Path | None,
) -> None:
    """Predict every op that MODEL calls on a Mac, and what becomes of it there.

    MODEL is a repo id, a local folder with config.json, a class package.module:Class with --config FILE, a file
    ./target.py of your own (which runs), or nothing for the default target. No weights are read or downloaded and
    nothing is computed. With --mac the memory and the time that it takes there are forecast as well, and each
    route is judged.

    Exit codes: 0 predicted, 1 something falls back, raises or is wrong, 2 usage.
    """
    # Bad input is answered before torch is imported.
    from mpsprobe.knowledge.ops import resolve_release
    from mpsprobe.mac.lineup import named
    from mpsprobe.models.targets import Wanted

    if torch not in (None, "all"):
        resolve_release(str(torch))
    if mac is not None:
        named(mac, macos)

    from mpsprobe.prediction.command import run

    wanted = Wanted(
        model=model,
        profile=profile,
        config=config,
        revision=revision,
        weightless=True,
        shrink=shrink,
        trust_remote_code=trust_remote_code,
        dtype=dtype,
        new_tokens=new_tokens,
        autocast=autocast,
    )
    text, document, clean = run(
        wanted,
        torch=torch,
        macos=macos,
        mac=mac,
        fallback=fallback,
        tokens=tokens,
        calibration=calibration,
        output=output,
        say=sink.remark,
    )
    sink.result(text, document)
    click.get_current_context().exit(0 if clean else 1)
