"""Record what a target without weights does on the memoryless device."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import Any

import msgspec
import torch

from mpsprobe.device.virtual.memoryless.assume import Assumption
from mpsprobe.device.virtual.memoryless.engine import ASSUMED_LENGTH
from mpsprobe.device.virtual.observer import Finding, Quiet
from mpsprobe.device.virtual.session import predict as memoryless
from mpsprobe.errors import MpsprobeError, TargetError, first_line
from mpsprobe.forecast.trace import Trace
from mpsprobe.knowledge import quantisation
from mpsprobe.knowledge.quantisation import LoadingAnswer
from mpsprobe.models import targets
from mpsprobe.models.adapter import Adapter, Weights, token_limit
from mpsprobe.models.training import TrainingAdapter, untrained
from mpsprobe.models.weightless import config_only, unfed
from mpsprobe.models.weightless.random_init import RandomInitAdapter
from mpsprobe.models.weightless.sizes import fed
from mpsprobe.models.weightless.synthetic import describe
from mpsprobe.options import Settings
from mpsprobe.phases import target_code
from mpsprobe.phases.inference import autocast
from mpsprobe.prediction.passes import DEPTH, OrderedObserver, Passes
from mpsprobe.run import Evidence, Mac, OpUse
from mpsprobe.run.outlook import RUN_STEPS, RUN_TURNS, Fed, Workload
from mpsprobe.supervision.child import UserInterrupt
from mpsprobe.trace.dispatch import HostEvent
from mpsprobe.trace.recorder import Recorder
from mpsprobe.trace.source import line_of

#: The macOS whose rules apply by default.
MACOS = "15.5"
#: The unified memory in GB where no Mac is given: more than any has, so that memory never decides.
_ANY_MEMORY = 1e6


@dataclass(frozen=True)
class WeightlessTarget:
    """A target whose class and config are known, ready to be built without weights.

    Attributes:
        name: The target as the user named it, or the default target's name.
        adapter: The adapter that builds it, makes its input and runs it.
        dtype: The requested dtype.
        notes: Sentences about what was changed, such as layers that were left out.
        workload: The requested workload.
        plan: The fields of `run.Target` that state the owner's plan.
        ref: The target as it was requested; None where it was made in code.
    """

    name: str
    adapter: Adapter
    dtype: str
    notes: list[str] = field(default_factory=list)
    workload: Workload = field(default_factory=Workload)
    plan: dict[str, Any] = field(default_factory=dict)
    ref: targets.TargetRef | None = None


def resolve(settings: Settings, say: Callable[[str], None] = lambda _: None) -> WeightlessTarget:
    """Find the class, the config and the adapter of a target.

    Args:
        settings: The options; a prediction never loads weights.
        say: A function that is called with a line for each file of foreign code, before it runs.

    Raises:
        MpsprobeError: The target cannot be found, or its class or config cannot be used.
    """
    ref = targets.resolve(_run_of(settings).replace(random_init=True))
    adapter, changes = config_only.make(ref, config_only.obtain(ref).path, Weights.NONE, say)
    adapter.workload = settings.workload
    if settings.autocast is not None:
        words = ref.profile.autocast_words(ref.profile.autocast)
        changes = [*changes, f"Asked for: {words}."]
    asked = replace(ref, settings=settings)
    return WeightlessTarget(ref.name, adapter, ref.profile.dtype, changes, settings.workload, ref.plan, asked)


def _run_of(settings: Settings) -> Settings:
    """Return the options of the run to record: long loops are shortened, and the forecast extrapolates them."""
    tokens, steps = settings.new_tokens, settings.steps
    return settings.replace(
        new_tokens=min(tokens, RUN_TURNS) if tokens is not None else None,
        steps=min(steps, RUN_STEPS) if steps is not None else None,
    )


@dataclass(frozen=True)
class Observed:
    """What a target did on the memoryless device.

    Attributes:
        uses: The distinct op uses of the inference, each with its flags (`OpFlag`).
        findings: What a Mac refuses or runs on the CPU, while building or running.
        assumptions: The values that had to be assumed during the inference.
        host_events: The waits of the host for the device, and the copies between them.
        architecture: The class of the model.
        parameters: The number of parameters, with tied ones counted once.
        weight_bytes: The size of parameters and buffers in bytes.
        dtypes: The number of parameters by dtype.
        inputs: A description of each tensor of the input.
        doing: What was run, in a few words.
        notes: The decisions that were made for the user.
        stopped: The reason why the run ended early; `""` when it did not.
        next_step: The advice for a stop that the made-up input may have caused; empty without one.
        on_assumption: Whether an assumed value may have caused the stop.
        dropped: The number of calls of op uses beyond the recorder's limit.
        trace: The calls in order, with the memory in use; packed weights count with their real bits.
        loading: What loading the quantised checkpoint does; None for one that is not quantised.
        fed: The sizes of the input.
        checkpoint_bytes: The size of the weights in bytes as the checkpoint stores them, quantised or not.
        alike: The same observation for each other requested release that behaves in the same way, by release. They
            share op uses.
        token_limit: The largest token limit that the model's config states; None when it states none.
        autocast: Whether the profile requests autocast.
    """

    uses: list[tuple[OpUse, int]]
    findings: list[Finding]
    assumptions: list[Assumption]
    host_events: list[HostEvent]
    architecture: str
    parameters: int
    weight_bytes: int
    dtypes: dict[str, int]
    inputs: list[str]
    doing: str
    trace: Trace
    notes: list[str] = field(default_factory=list)
    stopped: str = ""
    next_step: str = ""
    dropped: int = 0
    fed: Fed = field(default_factory=Fed)
    loading: LoadingAnswer | None = None
    checkpoint_bytes: int = 0
    token_limit: int | None = None
    autocast: bool = False
    on_assumption: bool = False
    alike: dict[str, Observed] = field(default_factory=dict)


class _Gate(Quiet):
    """An observer that keeps findings, and forwards ops and waits only while it is open.

    It is closed while the model is built, which is not part of its use. When it opens, the recorder's own methods
    replace its methods, so that no frame of this file lies between: that frame would be taken for the line of code
    that called the op.
    """

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def open(self, behind: OrderedObserver) -> None:
        """Start to forward ops and waits to the recorder.

        Args:
            behind: The observer of the recorder, whose methods replace this one's.
        """
        self.op, self.again = behind.op, behind.again  # type: ignore[method-assign]
        self.sync, self.crossing = behind.sync, behind.crossing  # type: ignore[method-assign]

    def close(self) -> None:
        """Stop forwarding ops and waits; findings are still kept."""
        del self.op, self.again, self.sync, self.crossing

    def finding(self, finding: Finding) -> None:
        self.findings.append(finding)


@contextlib.contextmanager
def _whole_search() -> Iterator[None]:
    """Let transformers' beam search go on until every beam is as long as asked for, while the block runs.

    It also ends once no running beam can surpass a finished one. That is a comparison of scores, which are not computed
    here, and the value assumed for it ended a search after its first token.
    """
    name = "_beam_search_has_unfinished_sequences"
    mixin = getattr(sys.modules.get("transformers.generation.utils"), "GenerationMixin", None)
    plain = vars(mixin).get(name) if mixin is not None else None
    if plain is None:
        yield
        return

    def unfinished(improvable: Any, finished: Any, hits: torch.Tensor, early: Any) -> torch.Tensor:
        del improvable, finished, early
        return ~torch.all(hits)

    setattr(mixin, name, staticmethod(unfinished))
    try:
        yield
    finally:
        setattr(mixin, name, plain)


def observe(target: WeightlessTarget, mac: Mac, others: Sequence[str] = ()) -> Observed:
    """Build the target and run its inference once, as on that Mac.

    Where the run stops because of an assumed value, it is repeated with masks that select everything; a run that then
    completes is the result.

    Args:
        target: The target to build and run.
        mac: The target Mac.
        others: Other releases with MPS on that macOS, for `Observed.alike`.

    Raises:
        MpsprobeError: The target cannot be built or given an input. What its own code raises later becomes
            `stopped`.
    """
    seen = _observe(target, mac, others)
    if not seen.on_assumption:
        return seen
    again = _observe(target, mac, others, full_masks=True)
    if again.stopped:
        return seen
    note = (
        "Values that nobody computes decide sizes here: elements that its code selects by value are all taken, and a "
        f"length that it computes is taken to be {ASSUMED_LENGTH}. Memory and time are those of that length."
    )
    for one in (again, *again.alike.values()):
        one.notes.append(note)
    return again


def _observe(
    target: WeightlessTarget, mac: Mac, others: Sequence[str], *, full_masks: bool = False
) -> Observed:
    adapter = target.adapter
    device = torch.device("mps", 0)
    gate = _Gate()
    with _quietly(), _of_target("No input can be made"):
        batch = adapter.prepare(adapter.sample())
    sizes = fed(batch)
    if isinstance(adapter, TrainingAdapter):
        sizes = msgspec.structs.replace(sizes, batches=adapter.plan.accumulate)
    inputs = describe(batch)  # before the model runs, because some models remove arguments from the batch
    stopped = step = ""
    on_assumption = False
    with (
        _quietly(),
        memoryless(
            torch=mac.torch,
            macos=mac.macos or MACOS,
            memory_gb=mac.memory_gb or _ANY_MEMORY,
            fallback=mac.fallback,
            observer=gate,
            others=others,
        ) as session,
        adapter.grad_mode,
    ):
        if full_masks:
            session.assume_full_masks()
        model = _loaded(adapter, device, target.dtype)
        tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}.values()
        parameters = {id(parameter): parameter for parameter in model.parameters()}.values()
        dtypes: dict[str, int] = {}
        for parameter in parameters:
            name = str(parameter.dtype).removeprefix("torch.")
            dtypes[name] = dtypes.get(name, 0) + parameter.numel()
        weight_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        loaded = _Loading.of(adapter, mac.torch, model, weight_bytes)
        built = len(session.assumptions)
        recorder = Recorder(model, ordered=True)
        passes = Passes(recorder, session.memory)
        batch = _moved(batch, device)
        passes.fed()
        gate.open(observer := OrderedObserver(recorder))
        pid, interrupt = os.getpid(), UserInterrupt()
        try:
            following = recorder.paths.following(around=passes.around, depth=DEPTH, each=passes.each)
            with interrupt, following, passes.stepping(), autocast(adapter.profile, device), _whole_search():
                raw = adapter.infer(model, batch)
                if not isinstance(adapter, RandomInitAdapter):
                    adapter.extract(raw)
        except MpsprobeError:
            raise
        except BaseException as problem:  # the model's code may raise anything
            ours = not isinstance(problem, (Exception, SystemExit)) and not target_code.is_of_target(problem)
            if interrupt.is_behind(problem) or ours:
                raise
            stopped = f"{type(problem).__name__}: {first_line(problem)} (at {line_of(problem.__traceback__)})"
            step = unfed.next_step(problem)
            assumed = session.assumptions[built:]
            emptied = assumed and re.search(r"numel\(\) == 0|\b(non-)?empty\b", stopped)
            on_assumption = bool(emptied or any(one.dependents for one in assumed))
            if step and on_assumption:
                step = (
                    "A value that had to be assumed decided it: "
                    f"mpsprobe run {target.name} --random-init --device emulated has real ones"
                )
        finally:
            target_code.end_fork(pid)
        gate.close()
        flagged, trace = passes.trace(Evidence.PREDICTED)
        if isinstance(adapter, TrainingAdapter):
            held = adapter.held(model)
            trace = replace(trace, gradients=held["gradients"], states=held["optimiser states"])
        assumptions = session.assumptions[built:]
        architecture = adapter.class_name(model)
        limit = token_limit(model)
        alike = {
            one: (
                _Loading.of(adapter, one.release.torch, model, weight_bytes),
                list(map(one.as_reported, gate.findings)),
            )
            for one in session.contract.alike
        }
        del model
    light = loaded.packed_bytes < weight_bytes
    seen = Observed(
        uses=flagged,
        trace=trace.lighter(weight_bytes - loaded.packed_bytes) if light else trace,
        token_limit=limit,
        autocast=bool(adapter.profile.autocast),
        loading=loaded.answer,
        checkpoint_bytes=loaded.checkpoint_bytes,
        findings=gate.findings,
        assumptions=assumptions,
        host_events=observer.host_events(),
        architecture=architecture,
        parameters=sum(dtypes.values()),
        weight_bytes=weight_bytes,
        dtypes=dtypes,
        inputs=inputs,
        doing=adapter.doing,
        notes=[*target.notes, *adapter.notes],
        stopped=stopped,
        next_step=step,
        on_assumption=on_assumption,
        dropped=recorder.dropped,
        fed=sizes,
    )
    for one, (other, findings) in alike.items():
        seen.alike[one.release.torch] = replace(
            seen,
            findings=findings,
            loading=other.answer,
            checkpoint_bytes=other.checkpoint_bytes,
            alike={},
        )
    return seen


def _loaded(adapter: Adapter, device: torch.device, dtype: str) -> torch.nn.Module:
    """Load the target's model onto the memoryless device.

    Raises:
        TargetError: The target's code, or a library, raised.
    """
    with _of_target("The model does not load on that Mac", anyone=True):
        return adapter.load(device, dtype)


@contextlib.contextmanager
def _of_target(what: str, *, anyone: bool = False) -> Iterator[None]:
    """Turn an exception of the target's code into a `TargetError` with its line; others pass unchanged.

    Args:
        what: The beginning of the error message.
        anyone: Whether errors without a frame of the target's code, raised in libraries only, count too.

    Raises:
        TargetError: The target's code raised anything but an interrupt by the user or an error of mpsprobe.
    """
    pid = os.getpid()
    interrupt = UserInterrupt()
    try:
        with interrupt:
            yield
    except MpsprobeError:
        raise
    except BaseException as problem:
        of_target = target_code.is_of_target(problem) or (anyone and isinstance(problem, Exception))
        if interrupt.is_behind(problem) or not of_target:
            raise
        where = line_of(problem.__traceback__)
        raise TargetError(
            f"{what}: {type(problem).__name__}: {first_line(problem)}{f' (at {where})' if where else ''}",
            "`mpsprobe explain` names the cause and a fix of an error text.",
        ) from problem
    finally:
        target_code.end_fork(pid)


@dataclass(frozen=True)
class _Loading:
    """What loading the quantised parts of a target does with the installed packages and a torch release.

    Attributes:
        answer: The answer for all parts; None where none is quantised.
        checkpoint_bytes: The size of the weights in bytes as the checkpoint stores them.
        packed_bytes: The size of all weights in bytes once they are loaded, where packed ones stay packed.
    """

    answer: LoadingAnswer | None
    checkpoint_bytes: int
    packed_bytes: int

    @classmethod
    def of(cls, adapter: Adapter, torch_release: str, model: torch.nn.Module, weight_bytes: int) -> _Loading:
        checkpoint_bytes = packed_bytes = weight_bytes
        answers = []
        for part in untrained(adapter).quantised:
            version = metadata.version(part.library)
            answer = quantisation.answer(part.how, version, library=part.library, torch=torch_release)
            answers.append((part.name, answer))
            saved = weight_bytes - quantisation.weight_bytes(
                answer.quantised, weight_bytes, _linear(model, part.name, answer)
            )
            checkpoint_bytes -= saved
            packed_bytes -= 0 if answer.dense else saved
        return cls(quantisation.joined(answers), checkpoint_bytes, packed_bytes)


def _linear(model: torch.nn.Module, part: str, loading: LoadingAnswer) -> dict[str, tuple[int, int]]:
    """Return the elements and bytes of the weights that a method quantises, by module, or by parameter for experts.

    Args:
        model: The model.
        part: The name of the part of a pipeline to look at; empty for the whole model.
        loading: The answer for that part, which names the method.
    """
    method = loading.quantised.method
    experts_only = method is not None and method.experts_only
    packed: tuple[type[torch.nn.Module], ...] = (torch.nn.Linear,)
    if loading.quantised.embeddings:
        packed = (torch.nn.Linear, torch.nn.Embedding)
    seen: set[int] = set()  # tied weights are stored once
    found: dict[str, tuple[int, int]] = {}
    for name, module in model.named_modules():
        if part and not name.startswith(f"{part}."):
            continue
        for key, weight in module.named_parameters(recurse=False):
            experts = weight.dim() == 3 and "experts" in f"{name}.{key}"
            linear = isinstance(module, packed) and key == "weight"
            if id(weight) not in seen and (experts or (linear and not experts_only)):
                seen.add(id(weight))
                at = name if linear else f"{name}.{key}"
                found[at] = (weight.numel(), weight.numel() * weight.element_size())
    return found


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Silence Python warnings and transformers' log below errors, and send what model code prints to stderr.

    stdout carries the document, and what matters of the warnings is reported as findings.
    """
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: _moved(one, device) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(one, device) for one in value)
    return value
