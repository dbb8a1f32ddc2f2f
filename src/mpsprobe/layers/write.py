"""Write a baseline: the target's passes on this machine, with their noise."""

from __future__ import annotations

from pathlib import Path

import torch

from mpsprobe import __version__
from mpsprobe.layers import outputs as results
from mpsprobe.layers.baseline import Baseline, Info, save
from mpsprobe.layers.capture import Capture, capture
from mpsprobe.layers.criterion import Noise
from mpsprobe.layers.job import Job, Written
from mpsprobe.layers.leaves import leaves
from mpsprobe.layers.matching import config_digest, state_digest, weights_digest
from mpsprobe.layers.module_calls import Marker
from mpsprobe.layers.opened import Announce, Opened, exact_float32, open_target
from mpsprobe.layers.student import Forcing, follow
from mpsprobe.layers.subject import SEED, Extent, Subject
from mpsprobe.models.adapter import Weights
from mpsprobe.phases.target_code import target_code
from mpsprobe.run import Evidence, Phase
from mpsprobe.run.journal import utc_now


def write(job: Job, announce: Announce, marker: Marker | None = None) -> Written:
    """Run the target's stages and write the results to `job.output`.

    Raises:
        MpsprobeError: The file cannot be written.
        LinkFailed: The target or its device is unavailable, or its code raised.
    """
    assert job.output is not None
    with open_target(job, announce) as opened, exact_float32():
        other, noise_words = _noise_model(opened)
        notes = (
            []
            if other
            else ["No noise was measured: a CPU copy does not fit in memory. Limits will be wide."]
        )
        announce("reading weights to identify them", opened.limit(Phase.TRANSFER))
        snapshot, loaded = opened.obtained.snapshot, opened.prepared.loaded
        made = loaded.adapter.weights is Weights.RANDOM
        baseline = Baseline(
            Info(
                mpsprobe=__version__,
                created=utc_now(),
                target=opened.obtained.ref.name,
                profile=opened.profile.name,
                weights=state_digest(loaded.model) if made else weights_digest(snapshot),
                config=config_digest(snapshot),
                asked=opened.profile.dtype,
                autocast=opened.profile.autocast,
                inference=opened.profile.inference,
                seed=SEED,
                side=opened.side,
                noise=noise_words,
            ),
            dict(leaves(opened.prepared.cpu)),
        )
        for stage in Extent:
            if stage.value not in job.stages:
                continue
            taken = _pass(opened, opened.subject, stage, marker)
            baseline.captures[stage] = taken
            if taken.steps_left_out:
                notes.append(
                    f"{taken.steps_left_out} outputs of {stage.value} were too large to keep: after them a "
                    "compared run is not held to this one."
                )
            if other is not None:
                baseline.noises[stage] = _noise(opened, other, stage, taken, marker)
        path = Path(job.output)
        save(baseline, path)
        return Written(
            path=str(path),
            target=baseline.info.target,
            device=opened.side.device,
            dtype=opened.side.dtype,
            weights=baseline.info.weights,
            size=path.stat().st_size,
            calls={stage.value: taken.calls for stage, taken in baseline.captures.items()},
            noise=noise_words,
            notes=notes,
        )


def _noise_model(opened: Opened) -> tuple[Subject | None, str]:
    """Return the run whose distance from this one is the noise (float32 for half precision), and its name."""
    if opened.dtype is torch.float32:
        other = opened.noisy
        words = f"{opened.noise_dtype} on the CPU"
    else:
        other = opened.reference
        words = "float32 on the CPU"
    if other is None:
        return None, ""
    return other, f"{words} against the baseline's own {opened.side.label}, on the machine that wrote it"


def _pass(opened: Opened, subject: Subject, stage: Extent, marker: Marker | None) -> Capture:
    text = f"{stage.value} on {subject.label}"
    opened.announce(text, opened.limit(Phase.INFERENCE))
    device = opened.site.device
    with target_code(Phase.INFERENCE, text, device.evidence, device.name):
        return capture(subject, stage, marker)


def _noise(opened: Opened, other: Subject, stage: Extent, taken: Capture, marker: Marker | None) -> Noise:
    text = f"{stage.value} on {other.label}, for the noise"
    opened.announce(text, opened.limit(Phase.INFERENCE, cpu=True))
    forcing = Forcing.STEPS if taken.iterative else Forcing.FREE
    with target_code(Phase.INFERENCE, text, Evidence.MEASURED, "cpu"):
        followed = follow(other, stage, taken, forcing, marker)
    noise = Noise.of(followed.compared)
    if forcing is Forcing.FREE:
        results.add_noise(noise, followed.outputs, taken.outputs)
    return noise
