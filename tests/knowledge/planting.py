"""Run an advisory's example on the memoryless device and return what the recorder sees of it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from mpsprobe.device.virtual.session import predict as memoryless
from mpsprobe.knowledge.advisories import Example, Mode
from mpsprobe.run import Evidence, OpUse, TensorMeta
from mpsprobe.trace.dispatch import RecorderObserver
from mpsprobe.trace.recorder import Recorder
from mpsprobe.trace.signature import overload

#: Ordinary values of arguments that have no default and that an example leaves out, by name.
_ORDINARY: Mapping[str, Any] = {
    **dict.fromkeys(
        ("dim", "dim0", "index", "start", "interpolation_mode", "padding_mode", "normalization", "reduction"),
        0,
    ),
    **dict.fromkeys(
        ("dim1", "num_samples", "k", "alpha", "beta", "num_layers", "groups", "num_groups", "group", "step"),
        1,
    ),
    **dict.fromkeys(("end", "n", "steps", "num_classes", "other", "exponent", "bins", "high", "to"), 4),
    **dict.fromkeys(("value", "std", "weight", "value", "max", "threshold", "fill_value", "scale"), 1.0),
    **dict.fromkeys(
        ("dropout", "weight_decay", "momentum", "dampening", "min", "p", "mean", "from", "lambd"), 0.0
    ),
    **dict.fromkeys(
        (
            "training",
            "train",
            "update",
            "upper",
            "onesided",
            "has_biases",
            "sorted",
            "include_self",
            "forward",
        ),
        True,
    ),
    **dict.fromkeys(
        (
            "self_is_result",
            "keepdim",
            "half_to_float",
            "align_corners",
            "accumulate",
            "transposed",
            "bidirectional",
            "stable",
        ),
        False,
    ),
    **dict.fromkeys(
        (
            "batch_first",
            "benchmark",
            "deterministic",
            "cudnn_enabled",
            "descending",
            "amsgrad",
            "maximize",
            "nesterov",
        ),
        False,
    ),
    **dict.fromkeys(
        ("is_first_step", "scale_grad_by_freq", "sparse", "return_inverse", "return_counts", "unsafe"), False
    ),
    "dims": [0],
    "dtype": "float32",
    "negative_slope": 0.01,
    "eps": 1e-5,
    "lr": 0.1,
    "beta1": 0.9,
    "beta2": 0.99,
    "reduce": "sum",
    "bias_sizes": None,
    "scale_factors": None,
    "padding_idx": -1,
    "driver": None,
    "divisor_override": None,
    "n_fft": 16,
}


class _Switch:
    """An observer whose recorder can be changed while the session goes on: entering one takes a second."""

    def __init__(self) -> None:
        self.to = RecorderObserver(Recorder())

    def op(self, *call: Any, **options: Any) -> None:
        self.to.op(*call, **options)

    def again(self, *call: Any, **options: Any) -> None:
        self.to.again(*call, **options)

    def sync(self, kind: str) -> None:
        pass

    def crossing(self, nbytes: int, direction: str) -> None:
        pass

    def finding(self, finding: Any) -> None:
        self.to.finding(finding)


class Field:
    """A memoryless Mac on which examples are planted."""

    def __init__(self, switch: _Switch) -> None:
        self._switch = switch

    def plant(self, example: Example) -> list[OpUse]:
        """Call the example's op with its tensors and return the op uses that were recorded.

        Raises:
            Exception: what the call raised, where nothing was recorded.
        """
        func, args, kwargs = _call(example.use())
        self._switch.to = RecorderObserver(Recorder())
        training = Mode.TRAINING in (example.modes or ())
        try:
            with warnings.catch_warnings(), torch.enable_grad() if training else torch.no_grad():
                warnings.simplefilter("ignore")  # such as that of an op that falls back to the CPU
                func(*args, **kwargs)
        except Exception:
            if not self._uses():
                raise
        return self._uses()

    def record(self, run: Callable[[], object]) -> list[OpUse]:
        """Run a function without gradients, with new tensors on the device, and return the op uses of it."""
        self._switch.to = RecorderObserver(Recorder())
        with torch.no_grad(), torch.device("mps"):
            run()
        return self._uses()

    def _uses(self) -> list[OpUse]:
        return self._switch.to.recorder.op_uses(Evidence.PREDICTED)


@contextlib.contextmanager
def field(torch_release: str, macos: str) -> Iterator[Field]:
    """Enter a memoryless Mac with that release and system, with memory for any tensor."""
    switch = _Switch()
    release = ".".join(torch_release.split(".")[:2])
    with memoryless(release, macos=macos, memory_gb=4096, observer=switch):
        yield Field(switch)


def _call(use: OpUse) -> tuple[Any, list[Any], dict[str, Any]]:
    """Return the overload with the arguments of `use`; what it leaves out and has no default is ordinary."""
    func = overload(use.op)
    waiting = [_tensor(meta) for meta in use.inputs]
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    arguments = list(func._schema.arguments)
    single = [str(one.type) == "Tensor" for one in arguments]
    for index, argument in enumerate(arguments):
        kind, given = str(argument.type), argument.name in use.scalars
        if given and use.scalars[argument.name] is None:
            value: Any = None
        elif kind == "Tensor":
            value = waiting.pop(0)
        elif kind == "Optional[Tensor]":
            value = waiting.pop(0) if len(waiting) > sum(single[index + 1 :]) else None
        elif "Tensor" in kind:
            left = len(waiting) - sum(single[index + 1 :])
            lists = sum("Tensor[]" in _kind(one) or "List[Tensor]" in _kind(one) for one in arguments[index:])
            count = _list_length(use, argument.name, left // max(lists, 1))
            value, waiting = waiting[:count], waiting[count:]
        elif given:
            value = _readable(use.scalars[argument.name], kind)
        elif argument.name == "device" and not use.inputs:
            value = torch.device("mps")
        elif argument.has_default_value():
            value = argument.default_value
        else:
            value = _ordinary(argument.name, kind, use)
        if argument.kwarg_only:
            kwargs[argument.name] = value
        else:
            args.append(value)
    return func, args, kwargs


def _list_length(use: OpUse, name: str, left: int) -> int:
    if use.op.partition(".")[0] not in ("aten::lstm", "aten::_lstm_mps"):
        return left
    return 2 if name == "hx" else len(use.inputs) - 3


def _kind(argument: Any) -> str:
    return str(argument.type)


def _ordinary(name: str, kind: str, use: OpUse) -> Any:
    first = use.inputs[0].shape if use.inputs else ()
    spatial = max(len(first) - 2, 1)
    sized: dict[str, Sequence[int]] = {
        "stride": [1] * spatial,
        "padding": [0] * spatial,
        "dilation": [1] * spatial,
        "output_padding": [0] * spatial,
        "kernel_size": [2] * spatial,
        "pad": [1, 1] * spatial,
        "padding_size": [1, 1] * spatial,
        "output_size": [2] * spatial,
        "normalized_shape": list(use.inputs[1].shape) if len(use.inputs) > 1 else list(first[-1:]),
        "size": list(first) or [4],
        "repeats": [2] * len(first),
    }
    if name in sized:
        return sized[name]
    if name == "padding" and use.op.partition(".")[0].partition("::")[2].startswith(
        ("reflection_pad", "replication_pad")
    ):
        return [1, 1] * spatial
    if name == "input_sizes":
        return list(use.inputs[0].shape)
    if name == "output_mask":
        return [True] * 3
    if name == "N":
        return first[0]
    if name == "C":
        return first[1]
    if name == "HxW":
        return int(torch.Size(first[2:]).numel())
    if name not in _ORDINARY:
        raise LookupError(f"{use.op}: the example leaves out {name!r} ({kind})")
    return _readable(_ORDINARY[name], kind)


def _readable(value: Any, kind: str) -> Any:
    if isinstance(value, str) and value.startswith("torch."):
        value = value.removeprefix("torch.")
    if isinstance(value, str):
        if "Device" in kind or value.startswith("mps"):
            return torch.device(value)
        found = getattr(torch, value, None)
        if isinstance(found, (torch.dtype, torch.layout, torch.memory_format)):
            return found
        return float(value) if value in ("inf", "-inf", "nan") else value
    if "List" in kind and not isinstance(value, (list, type(None))):
        return [value]
    return value


def _tensor(meta: TensorMeta) -> torch.Tensor:
    """Return a tensor with that layout whose values are valid: indices of 0, definite matrices, positive weights."""
    dtype = getattr(torch, meta.dtype)
    device = meta.device.partition(":")[0] or "mps"
    made = torch.empty_strided(meta.shape, meta.strides, dtype=dtype, device=device)
    numeric = dtype.is_floating_point or dtype.is_complex
    if made.numel() > (1 << 16 if numeric else 1 << 22) or 0 in made.stride():
        return made
    if not numeric:
        return made.zero_()
    # a positive definite matrix, and a row of weights that are all positive
    made.fill_(0.5)
    if made.dim() > 1:
        made.diagonal(dim1=-2, dim2=-1).add_(1)
    return made
