"""`mpsprobe calibrate`: measure the device at hand, for forecasts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mpsprobe.cli.sink import Sink, json_flag, pass_sink
from mpsprobe.errors import TargetError

if TYPE_CHECKING:
    from mpsprobe.forecast.calibration import Calibration

_AUTO = "auto"
#: Kinds of calls whose cost for the host is shown.
_SHOWN = ("matmul", "stream", "view", "module")


@click.command("calibrate")
@click.option(
    "--device",
    type=click.Choice([_AUTO, "mps", "cuda", "cpu"]),
    default=_AUTO,
    show_default=True,
    help="The device; auto: mps, else cuda, else cpu.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to write.  [default: in the user's cache folder, where predict looks]",
)
@json_flag
@pass_sink
def command(sink: Sink, device: str, output: Path | None) -> None:
    """Measure a device: matmul by dtype, memory, dispatch, waits and copies, in less than a minute.

    The result is a JSON file; mpsprobe predict forecasts the time on that device from it. Nothing else should run
    meanwhile.
    """
    import msgspec
    import torch

    from mpsprobe.device.real import real_device
    from mpsprobe.forecast.calibrate import calibrate
    from mpsprobe.forecast.calibration import default_file

    there = {"mps": torch.backends.mps.is_available(), "cuda": torch.cuda.is_available(), "cpu": True}
    if device == _AUTO:
        device = next(name for name, yes in there.items() if yes)
    if not there[device]:
        raise TargetError(f"torch {torch.__version__} finds no {device} here.", "mpsprobe doctor says why.")
    sink.remark(f"measuring {device}")
    calibration = calibrate(real_device(device), lambda what: sink.remark(f"  {what}"))
    file = output or default_file(device)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(msgspec.json.format(msgspec.json.encode(calibration)) + b"\n")
    except OSError as problem:
        raise TargetError(f"{file} cannot be written: {problem.strerror}.") from problem
    sent = _field_report(calibration, file, device)
    best: dict[str, float] = {}
    for point in calibration.points:
        if point.kind == "matmul":
            best[point.dtype] = max(best.get(point.dtype, 0.0), point.flops / point.seconds)
    lines = [f"{calibration.name}, torch {calibration.torch}, took {calibration.took_seconds:.0f} s"]
    lines += [f"  matmul {dtype}  {rate / 1e12:.3g} TFLOP/s" for dtype, rate in best.items()]
    lines += [
        f"  weights from memory  {calibration.weights_bandwidth / 1e9:.3g} GB/s",
        "  host, within a model: "
        + ", ".join(f"{kind} {calibration.host_seconds[kind] * 1e6:.3g} us" for kind in _SHOWN),
        f"  least kernel  {calibration.kernel_seconds * 1e6:.3g} us, a wait {calibration.wait_seconds * 1e6:.3g} us",
        f"  copy  {calibration.copy_bandwidth / 1e9:.3g} GB/s",
        f"written to {file}",
        *sent,
    ]
    sink.result("\n".join(lines), calibration)


def _field_report(calibration: Calibration, file: Path, device: str) -> list[str]:
    """Write the anonymous report of a Mac beside its calibration; return what to say of it."""
    if device != "mps":
        return []
    from mpsprobe import __version__, mac
    from mpsprobe.forecast import field
    from mpsprobe.run.journal import utc_now

    written = file.with_name(field.FILE)
    field.of_calibration(calibration, mac.host(), __version__, utc_now()[:10]).save(written)
    return [
        f"{written}: chip, releases and rates, no path or name; attach it to an issue if you like. Nothing was sent."
    ]
