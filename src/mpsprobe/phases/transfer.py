"""Phase 4: load the target straight to the device, and check that everything arrived as requested."""

from __future__ import annotations

import itertools
import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import msgspec
import torch
from safetensors import safe_open

from mpsprobe.device.emulated import Emulated
from mpsprobe.device.real import Device, MemoryWatch, watch_memory
from mpsprobe.device.virtual.observer import Finding
from mpsprobe.device.virtual.rules.messages import dtype_name, refused_dtypes
from mpsprobe.errors import TargetError, UsageError, text_of
from mpsprobe.knowledge import ops, quantisation
from mpsprobe.knowledge.quantisation import LoadingAnswer, Outcome
from mpsprobe.models.adapter import Adapter, Weights
from mpsprobe.models.hub.snapshot import Snapshot
from mpsprobe.models.profile import Profile
from mpsprobe.models.quantised import QuantisedPart, of_folder
from mpsprobe.models.training import untrained
from mpsprobe.phases.check import Checks, Result, Stopwatch
from mpsprobe.phases.refusals import collected, unless_refused
from mpsprobe.phases.target_code import target_code
from mpsprobe.quantities import decimal_size
from mpsprobe.run import Evidence, Measurement, MeasurementKey, Phase, Status, Table, Target
from mpsprobe.trace.dispatch import watched

#: The only dtype that cannot be moved to MPS in any release. Tensors of the others can be moved, but no kernel reads
# them.
NEVER_MOVED = torch.float64


def lacked(device: Device) -> Mapping[torch.dtype, str]:
    """Return the dtypes that MPS lacks in the release and on the macOS of a run, each with PyTorch's message.

    Release and macOS are the target Mac's where the device is emulated. Otherwise they are the installed ones, or the
    newest known release, and macOS 26.0 where this is no Mac.
    """
    if isinstance(device, Emulated):
        return device.session.contract.refused
    macos = platform.mac_ver()[0] or "26.0"
    try:
        release = ops.resolve_release(torch.__version__)
    except UsageError:
        release = ops.releases()[-1]
    return refused_dtypes(release, macos)


def lacking_text(dtypes: Iterable[torch.dtype]) -> str:
    """Return the end of a sentence that names dtypes that MPS lacks, and says what happens to tensors of them."""
    kinds = sorted({dtype_name(one) for one in dtypes})
    names = " and ".join(kinds)
    if kinds == [dtype_name(NEVER_MOVED)]:
        return f"{names}, which MPS cannot hold"
    if dtype_name(NEVER_MOVED) in kinds:
        return (
            f"{names}: MPS cannot hold the first kind, and no kernel of this release computes with the rest"
        )
    return (
        f"{names}, which no kernel of this release on MPS can read: memory moves, and a cast or an op raises"
    )


#: The number of tensors compared bit for bit with the files: enough to find a systematic fault, few enough to be quick.
_COMPARED = 24


@dataclass
class Loaded:
    """The link of phase 4: the model on its device.

    Attributes:
        model: The model in eval mode.
        adapter: The adapter that loaded it.
        profile: The profile that it was loaded with.
        snapshot: The files that it was loaded from.
        device: The device that it was loaded to.
        memory: The device's memory during the load.
        seconds: The wall time of the load in seconds, synchronised.
        refused: The ops that the device refused in the meantime, if it continues past refusals.
    """

    model: torch.nn.Module
    adapter: Adapter
    profile: Profile
    snapshot: Snapshot
    device: Device
    memory: MemoryWatch
    seconds: float
    refused: list[Finding] = field(default_factory=list)

    def measured(
        self, quantity: MeasurementKey, value: float | int | str | None, unit: str = ""
    ) -> Measurement:
        """Return a measurement of this model on this device, with the device's evidence."""
        return Measurement.of(quantity, value, unit, self.device.evidence, self.device.name)

    def result(self, status: Status, message: str = "", remedy: str = "") -> Result:
        """Return a result with the evidence and the name of this device."""
        return Result(status, message, remedy, evidence=self.device.evidence, device=self.device.name)

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield parameters, then buffers, with their names."""
        return itertools.chain(self.model.named_parameters(), self.model.named_buffers())


def load(
    adapter: Adapter, profile: Profile, snapshot: Snapshot, device: Device, flight: Path | None = None
) -> Loaded:
    """Load the target in the profile's dtype to the device; other settings, such as attention, are the adapter's.

    It also sets the number of CPU threads that the profile names.

    Args:
        adapter: The adapter that loads it.
        profile: The profile with the dtype.
        snapshot: The target's files.
        device: The device to load it to.
        flight: The file for the op in flight (see `watched`); None to record none.

    Raises:
        LinkFailed: Loading raised.
    """
    if profile.cpu_threads:
        torch.set_num_threads(profile.cpu_threads)
    with (
        target_code(Phase.TRANSFER, "loading", device.evidence, device.name),
        watched(flight),
        collected(device) as refused,
        watch_memory(device) as memory,
        Stopwatch() as watch,
    ):
        with _quantised(adapter, snapshot):
            model = adapter.load(device.torch_device, profile.dtype)
        device.synchronize()
    return Loaded(model, adapter, profile, snapshot, device, memory, watch.seconds, refused)


@contextmanager
def _quantised(adapter: Adapter, snapshot: Snapshot) -> Iterator[None]:
    """Add the fix to an error with which a library refuses to load a quantised checkpoint; others pass unchanged.

    Raises:
        TargetError: The checkpoint is quantised by a method that cannot load on a Mac, and loading raised the error
            that is known for it.
    """
    try:
        yield
    except Exception as problem:
        answer = _answer(adapter, snapshot)
        said = f"{type(problem).__name__}: {text_of(problem)}"
        if answer is None or not answer.raises or not _same(said, answer.error):
            raise
        remedy = "; or: ".join(one.rstrip(".") for one in (answer.fix, *answer.routes) if one)
        raise TargetError(f"loading: {said}", f"{remedy}.") from problem


def _same(said: str, known: str) -> bool:
    return " ".join(said.split()).startswith(" ".join(known.split()))


def described(loaded: Loaded, target: Target) -> Target:
    """Return a run's target with the facts that loading showed: its class and its number of parameters."""
    return msgspec.structs.replace(
        target,
        architecture=loaded.adapter.class_name(loaded.model),
        parameters=sum(parameter.numel() for parameter in loaded.model.parameters()),
    )


CHECKS: Checks[Loaded] = Checks(Phase.TRANSFER)


@CHECKS.add("load", "The model loads straight to the device", link=True)
def _load(loaded: Loaded) -> Result:
    parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    result = loaded.result(
        Status.PASS,
        f"{loaded.adapter.class_name(loaded.model)}, {parameters:,} parameters, in {loaded.seconds:.2f} s.",
    )
    result.measurements = [
        # Emulated or not, this machine took the time.
        Measurement.of(
            MeasurementKey.LOAD_TIME,
            round(loaded.seconds, 3),
            "s",
            Evidence.MEASURED,
            "host" if loaded.device.evidence is Evidence.EMULATED else loaded.device.name,
        ),
        loaded.measured(MeasurementKey.PARAMETERS, parameters),
    ]
    return unless_refused(Phase.TRANSFER, result, loaded.device, loaded.refused)


@CHECKS.add("quantisation", "A checkpoint with quantised weights loads on a Mac")
def _quantisation(loaded: Loaded) -> Result:
    answer = _answer(loaded.adapter, loaded.snapshot)
    if answer is None:
        return Result(Status.SKIPPED, "The checkpoint is not quantised.")
    if loaded.device.torch_device.type != "mps":
        return Result(Status.SKIPPED, "It is a question about Macs, and this device is none.")
    status = {
        Outcome.RAISES: Status.FAIL,
        Outcome.IGNORED: Status.FAIL,
        Outcome.DEQUANTISES: Status.WARN,
        Outcome.PACKED: Status.WARN if loaded.adapter.weights is not Weights.STORED else Status.PASS,
        Outcome.UNKNOWN: Status.UNKNOWN,
    }[answer.outcome]
    text = list(answer.sentences)
    if loaded.adapter.weights is not Weights.STORED:
        text.append("This run has random plain weights in their place.")
    remedy = "; or: ".join(one.rstrip(".") for one in (answer.fix, *answer.routes) if one)
    return Result(
        status, " ".join(text), f"{remedy}." if remedy else "", evidence=Evidence.PREDICTED, device="mps"
    )


def _answer(adapter: Adapter, snapshot: Snapshot) -> LoadingAnswer | None:
    """Predict how the installed packages load a target's quantised parts; return None without such parts."""
    parts = untrained(adapter).quantised
    if not parts and snapshot.config:  # a class with its own profile; a target.py has no config
        how = of_folder(snapshot.path, snapshot.config)
        parts = [] if how is None else [QuantisedPart("", "transformers", how)]
    return quantisation.joined(
        [
            (
                part.name,
                quantisation.answer(part.how, metadata.version(part.library), library=part.library),
            )
            for part in parts
        ]
    )


@CHECKS.add("placement", "Every parameter and buffer is on the device")
def _placement(loaded: Loaded) -> Result:
    wanted = loaded.device.torch_device.type
    stray = [(name, tensor.device) for name, tensor in loaded.tensors() if tensor.device.type != wanted]
    if not stray:
        return loaded.result(Status.PASS, f"All {sum(1 for _ in loaded.tensors())} tensors are on {wanted}.")
    name, where = stray[0]
    meta = any(device.type == "meta" for _, device in stray)
    return loaded.result(
        Status.FAIL,
        f"{len(stray)} tensors are not on {wanted}, the first is {name} on {where}.",
        "Tensors on meta were never given values: the checkpoint lacks them."
        if meta
        else "Register plain tensor attributes as buffers, so that .to(device) moves them.",
    )


@CHECKS.add("dtypes", "Every floating parameter has the dtype asked for, and none that MPS lacks")
def _dtypes(loaded: Loaded) -> Result:
    counts = Counter((_dtype(tensor), kind) for kind, tensor in _by_kind(loaded.model))
    table = Table(
        columns=["dtype", "kind", "tensors"], rows=[[dtype, kind, n] for (dtype, kind), n in counts.items()]
    )
    lacks = lacked(loaded.device)
    never = {name: tensor.dtype for name, tensor in loaded.tensors() if tensor.dtype in lacks}
    asked = loaded.profile.dtype
    wrong = [
        name
        for name, parameter in loaded.model.named_parameters()
        if asked != "auto" and parameter.is_floating_point() and _dtype(parameter) != asked
    ]
    if never:
        result = loaded.result(
            Status.FAIL,
            f"{len(never)} of the tensors: {lacking_text(never.values())}. The first is {next(iter(never))}.",
            "Create it in float32, or cast it on the CPU before it is moved; the fallback variable is no help.",
        )
    elif wrong:
        result = loaded.result(
            Status.WARN,
            f"{len(wrong)} parameters are not {asked}; the first is {wrong[0]}.",
            "The class keeps parts in another dtype: state it in the profile, or set it in the config.",
        )
    else:
        result = loaded.result(Status.PASS, _as_asked(loaded) if asked == "auto" else f"All {asked}.")
    result.table = table
    return result


def same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Return whether two tensors on the CPU are equal bit for bit; float8, which `equal` lacks, as bytes."""
    if first.dtype.is_floating_point and first.element_size() == 1 and first.dtype is second.dtype:
        first, second = (one.contiguous().flatten().view(torch.uint8) for one in (first, second))
    return torch.equal(first, second)


@CHECKS.add("values", "The weights on the device equal those in the files, bit for bit")
def _values(loaded: Loaded) -> Result:
    """Compare loaded tensors with the files, because mmapped buffers read stale data on some virtual Macs."""
    if loaded.adapter.weights is Weights.RANDOM:
        return Result(Status.SKIPPED, "Weights are random: there are no files to compare them with.")
    if not loaded.snapshot.files:
        return Result(Status.SKIPPED, "The target's file loads its own weights.")
    state = dict(loaded.tensors())
    compared, differing = 0, []
    with torch.inference_mode():
        for name, stored in _stored_tensors(loaded.snapshot, state):
            on_device = state[name]
            compared += 1
            expected = stored.to(on_device.dtype)
            if expected.shape != on_device.shape or not same_bits(on_device.detach().cpu(), expected):
                differing.append(name)
            if compared == _COMPARED:
                break
    if not compared:
        return Result(
            Status.UNKNOWN,
            "No tensor of the files has the name of one in the model, so none could be compared.",
        )
    if differing:
        return loaded.result(
            Status.FAIL,
            f"{len(differing)} of {compared} tensors compared differ from the file; the first is {differing[0]}.",
            "Load again with use_safetensors and without mmap; on a virtual GPU, use another macOS image.",
        )
    return loaded.result(Status.PASS, f"{compared} tensors compared, of {len(state)}.")


@CHECKS.add("attention", "Attention runs in the implementation asked for")
def _attention(loaded: Loaded) -> Result:
    wanted = loaded.profile.attention
    found = getattr(getattr(loaded.model, "config", None), "_attn_implementation", None)
    if not wanted:
        return Result(Status.SKIPPED, "The profile asks for none in particular.")
    if found is None:
        return Result(Status.UNKNOWN, "The model's config does not say which implementation it uses.")
    if found != wanted:
        return loaded.result(
            Status.WARN, f"{found} instead of {wanted}.", f"Set config.attn_implementation = {wanted!r}."
        )
    return loaded.result(Status.PASS, f"{found}.")


@CHECKS.add("memory", "Loading needs no second copy of the weights")
def _memory(loaded: Loaded) -> Result:
    memory = loaded.memory
    weights = sum(tensor.numel() * tensor.element_size() for _, tensor in loaded.tensors())
    peak, before = memory.peak.allocated, memory.before.allocated
    if peak is None or before is None:
        result = Result(Status.UNKNOWN, "This device does not tell its memory.")
    else:
        extra = peak - before
        # Below 1 GiB the libraries' own allocations outweigh the weights and do not show a second copy.
        doubled = weights > (1 << 30) and extra > 1.8 * weights
        result = loaded.result(
            Status.WARN if doubled else Status.PASS,
            f"{decimal_size(extra)} more at the peak, for {decimal_size(weights)} of weights; {memory.method}.",
            "Load with device_map and safetensors so that each shard goes straight to the device."
            if doubled
            else "",
        )
    result.measurements = [
        loaded.measured(MeasurementKey.WEIGHTS, weights, "bytes"),
        loaded.measured(MeasurementKey.MEMORY_BEFORE_LOADING, before, "bytes"),
        loaded.measured(MeasurementKey.MEMORY_AFTER_LOADING, memory.after.allocated, "bytes"),
        loaded.measured(MeasurementKey.PEAK_MEMORY_OF_LOADING, peak, "bytes"),
    ]
    return result


def _by_kind(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from (("parameter", parameter) for parameter in model.parameters())
    yield from (("buffer", buffer) for buffer in model.buffers())


def _as_asked(loaded: Loaded) -> str:
    return "As stored." if loaded.adapter.weights is Weights.STORED else "As the config states."


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _stored_tensors(snapshot: Snapshot, state: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield tensors of the safetensors files that the model has too, with their names, spread over all files."""
    files = [name for name in snapshot.files if name.endswith(".safetensors")]
    for path in files:
        with safe_open(snapshot.path / path, framework="pt") as file:
            shared = [name for name in file.keys() if name in state]  # noqa: SIM118 - not a mapping
            share = max(1, _COMPARED // len(files))
            for name in shared[:: max(1, len(shared) // share)]:
                yield name, file.get_tensor(name)
