"""Do the two jobs of a child: compare every module of the target with a reference, and write a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mpsprobe import __version__
from mpsprobe.knowledge import advisories
from mpsprobe.layers import baseline as baselines
from mpsprobe.layers.baseline import Baseline, Info, save
from mpsprobe.layers.capture import Capture, capture
from mpsprobe.layers.compared import Compared, Followed, Forcing, Lockstep, follow
from mpsprobe.layers.criterion import Criterion, Noise, add_output_noise, layers_of, output_rows
from mpsprobe.layers.matching import (
    adjusted_profile,
    check_random_weights,
    config_digest,
    state_digest,
    use_batch_of,
    weights_digest,
)
from mpsprobe.layers.module_calls import SEED, Extent, Marker, Subject, leaves
from mpsprobe.layers.opened import Announce, Opened, exact_float32, needed_reference, open_target
from mpsprobe.layers.result import (
    OUTSIDE,
    Divergence,
    FirstDivergence,
    Judged,
    Layer,
    OutputRow,
    StageSummary,
    Verdict,
)
from mpsprobe.layers.supervised import Job, Written
from mpsprobe.models.adapter import Weights
from mpsprobe.phases.check import LinkFailed
from mpsprobe.phases.recording import record_inference
from mpsprobe.phases.target_code import target_code
from mpsprobe.run import Evidence, Mac, OpUse, Phase
from mpsprobe.run.journal import utc_now

_CHAOTIC = (
    "Free runs of inference feed on themselves (generation, flow steps), so rounding alone may change their "
    "words and numbers: there every step was started from the reference's outcome of the one before, and the "
    "results of the free run are shown without judgement."
)


@dataclass
class _Beyond:
    """The tensors beyond their limits, with the stage, in the order of the passes.

    Attributes:
        made: Those that exceed the limit although the module got the reference's inputs.
        carried: Those that exceed it with the errors of everything before.
    """

    made: list[tuple[str, Compared, Judged]] = field(default_factory=list)
    carried: list[tuple[str, Compared, Judged]] = field(default_factory=list)


def diverge(job: Job, announce: Announce, marker: Marker | None = None) -> Divergence:
    """Compare a target with its reference, as a job states it.

    Raises:
        MpsprobeError: The baseline cannot be read or does not fit the target, the target or its device cannot be used,
            or the reference does not fit in memory.
        LinkFailed: A phase, such as loading the target, cannot be completed, or the target's code raised.
    """
    baseline = baselines.load(Path(job.against)) if job.against else None
    with open_target(job, announce, adjusted_profile(job, baseline, announce)) as opened, exact_float32():
        notes = list(opened.site.limits)
        if baseline is not None:
            check_random_weights(job, baseline, opened)
            notes += use_batch_of(baseline, opened)
        return _Comparison(job, opened, baseline, marker, notes).document()


class _Comparison:
    """The state of a comparison while `diverge` makes it."""

    def __init__(
        self,
        job: Job,
        opened: Opened,
        baseline: baselines.Baseline | None,
        marker: Marker | None,
        notes: list[str],
    ) -> None:
        self._job = job
        self._opened = opened
        self._baseline = baseline
        self._marker = marker
        self._notes = notes
        if baseline is None:
            needed_reference(opened)  # made before the noise run's model takes the memory
        self._has_noise = bool(baseline.noises) if baseline else opened.noisy is not None
        here, there = opened.side.transformers, baseline.info.side.transformers if baseline else ""
        same_code = baseline is None or here == there
        self._criterion = Criterion(opened.dtype, self._has_noise, same_code)
        if not same_code:
            self._notes.append(
                f"The baseline was made by the code of transformers {there or '(unknown)'}, this is {here}: a tensor "
                "whose shape differs between them was not compared."
            )
        self._kinds = {path: type(module).__name__ for path, module in opened.subject.model.named_modules()}
        self._layers: list[Layer] = []
        self._outputs: list[OutputRow] = []
        self._stages: list[StageSummary] = []
        self._beyond = _Beyond()
        self._local = job.local and self._can_look_locally()

    def document(self) -> Divergence:
        """Run the passes, judge them, and return the document."""
        for stage in Extent:
            if stage.value in self._job.stages:
                self._stage(stage)
        self._layers.sort(key=lambda layer: layer.rank, reverse=True)
        opened, baseline = self._opened, self._baseline
        noise = baseline.info.noise if baseline else f"{opened.noise_dtype} on the CPU against float32 there"
        return Divergence(
            mpsprobe=__version__,
            target=opened.obtained.ref.name,
            subject=opened.side,
            reference=baseline.info.side if baseline else opened.cpu_side,
            criterion=self._criterion.sentences(noise),
            stages=self._stages,
            outputs=self._outputs,
            layers=self._layers,
            first=self._first(),
            notes=self._notes,
        )

    def _can_look_locally(self) -> bool:
        if self._opened.reference is None or self._opened.noisy is None:
            self._notes.append(
                "Each module's own error was not looked at: float32 and same-dtype copies do not fit in memory."
            )
            return False
        return True

    def _stage(self, stage: Extent) -> None:
        opened, criterion = self._opened, self._criterion
        truth = self._truth(stage)
        if truth is None:
            self._notes.append(f"The baseline has no {stage.value}: that was not compared.")
            return
        forcing = Forcing.STEPS if truth.iterative else Forcing.FREE
        followed = self._follow(opened.subject, stage, truth, forcing)
        noise = self._noise(stage, truth, forcing)
        free = followed.outputs
        if forcing is Forcing.STEPS:
            self._announce(f"{stage.value} on {opened.subject.label}, freely")
            with self._guard(opened.subject, stage):
                free = opened.subject.run(stage)
            self._notes.append(_CHAOTIC)
        local = self._locally(stage) if self._local else None
        layers, made, carried = layers_of(
            stage.value, self._kinds, criterion, (followed.compared, noise), local
        )
        self._layers += layers
        self._beyond.made += [(stage.value, *one) for one in made]
        self._beyond.carried += [(stage.value, *one) for one in carried]
        self._outputs += output_rows(
            stage.value, free, truth.outputs, criterion, noise, judged=forcing is Forcing.FREE
        )
        self._stages.append(
            StageSummary(
                stage=stage.value,
                calls=truth.calls,
                compared=followed.calls - followed.unmatched,
                forcing=forcing.value,
                unmatched=followed.unmatched,
                unforced=followed.unforced if forcing is Forcing.STEPS else 0,
            )
        )

    def _truth(self, stage: Extent) -> Capture | None:
        if self._baseline is not None:
            return self._baseline.captures.get(stage)
        reference = needed_reference(self._opened)
        self._announce(f"{stage.value} on {reference.label}", cpu=True)
        with self._guard(reference, stage):
            return capture(reference, stage, self._marker)

    def _noise(self, stage: Extent, truth: Capture, forcing: Forcing) -> Noise:
        if self._baseline is not None:
            return self._baseline.noises.get(stage, Noise())
        if self._opened.noisy is None:
            return Noise()
        followed = self._follow(self._opened.noisy, stage, truth, forcing)
        noise = Noise.of(followed.compared)
        if forcing is Forcing.FREE:
            add_output_noise(noise, followed.outputs, truth.outputs)
        return noise

    def _locally(self, stage: Extent) -> tuple[list[Compared], Noise]:
        reference, noisy = self._opened.reference, self._opened.noisy
        assert reference is not None
        assert noisy is not None
        compared = []
        for subject in (self._opened.subject, noisy):
            with Lockstep(reference, stage) as reference_pass:
                followed = self._follow(subject, stage, reference_pass, Forcing.LAYERS)
            compared.append(followed.compared)
            if followed.other_shapes and subject is self._opened.subject:
                self._notes.append(
                    f"{stage.value}: {followed.other_shapes:,} arguments have another shape than in the reference "
                    "(masks, as a rule); they were not compared."
                )
        return compared[0], Noise.of(compared[1])

    def _follow(
        self, subject: Subject, stage: Extent, reference_pass: Capture | Lockstep, forcing: Forcing
    ) -> Followed:
        how = {
            Forcing.FREE: "",
            Forcing.STEPS: ", each step from the reference's",
            Forcing.LAYERS: ", module by module",
        }[forcing]
        cpu = forcing is Forcing.LAYERS or subject is not self._opened.subject
        self._announce(f"{stage.value} on {subject.label}{how}", cpu=cpu)
        with self._guard(subject, stage):
            return follow(subject, stage, reference_pass, forcing, self._marker)

    def _guard(self, subject: Subject, stage: Extent) -> AbstractContextManager[None]:
        evidence = self._opened.site.device.evidence if subject is self._opened.subject else Evidence.MEASURED
        return target_code(
            Phase.INFERENCE, f"{stage.value} on {subject.label}", evidence, subject.device.type
        )

    def _announce(self, text: str, *, cpu: bool = False) -> None:
        self._opened.announce(text, self._opened.limit(Phase.INFERENCE, cpu=cpu))

    def _first(self) -> FirstDivergence | None:
        beyond, verdict = (
            (self._beyond.made, Verdict.MAKES)
            if self._beyond.made
            else (self._beyond.carried, Verdict.CARRIES)
        )
        if not beyond:
            return None
        if verdict is Verdict.CARRIES and self._local:
            self._notes.append(
                "No module makes an error beyond its own limit: what diverges is the sum of smaller ones."
            )
        stage, compared, judged = beyond[0]
        path = compared.maker
        first = FirstDivergence(
            stage=stage,
            module=OUTSIDE if path is None else path,
            kind="" if path is None else self._kinds.get(path, ""),
            verdict=verdict,
            judged=judged,
        )
        self._announce("recording the ops of one inference")
        try:
            uses = record_inference(self._opened.prepared).uses
        except LinkFailed as problem:
            self._notes.append(f"Its op uses could not be recorded: {problem.result.message}")
        else:
            add_op_uses(first, uses, self._opened.site.mac, self._opened.site.device.name)
        return first


#: Devices whose op uses are those that a Mac dispatches.
_AS_MPS = ("mps", "emulated")
#: The greatest number of op uses: a module's own code has a dozen; those of a whole model would hide the answer.
_KEPT = 40


def add_op_uses(first: FirstDivergence, uses: Sequence[OpUse], mac: Mac, device: str) -> None:
    """Give the first diverging module the op uses of its own code, and the advisories that they meet.

    An op use belongs to the module's own code if the module is the innermost one. If its code calls no op itself, the
    op uses of the modules inside it are taken. The 40 with the most calls are kept. Advisories are looked up only for
    `mps` and the virtual device.
    """
    path = "" if first.module == OUTSIDE else first.module
    own = [use for use in uses if use.module == path]
    if not own and path:
        own = [use for use in uses if use.module.startswith(f"{path}.")]
    own.sort(key=lambda use: -use.count)
    first.op_uses = own[:_KEPT]
    if device in _AS_MPS:
        found = [match for use in own for match in advisories.match(use, mac.torch, mac.macos, mac.chip)]
        first.advisories = sorted({match.advisory.id for match in found})


def write_baseline(job: Job, announce: Announce, marker: Marker | None = None) -> Written:
    """Run the target's stages and write the results to `job.output`.

    Raises:
        MpsprobeError: The target or its device cannot be used, or the file cannot be written.
        LinkFailed: A phase, such as loading the target, cannot be completed, or the target's code raised.
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
    """Return the subject whose distance from the baseline's run is its noise, and a description of the noise.

    For half precision it is float32 on the CPU, for float32 the copy with perturbed weights; None and `""` when it
    does not fit in memory.
    """
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
        add_output_noise(noise, followed.outputs, taken.outputs)
    return noise
