"""Make inputs for any `nn.Module`: guess them from its forward pass and its first layer, then try them.

A guess counts only once the forward pass has accepted it, on tensors without values or on the CPU.
"""

from __future__ import annotations

import inspect
import itertools
import re
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mpsprobe.models.weightless.feed import TensorSpec

#: The guessed numbers of tokens or frames, image sides in pixels, and sound samples.
_LENGTH, _SIDES, _SAMPLES = 32, (224, 256, 64, 32), 16_000
#: Constructor arguments that determine the sizes of a sample, in the order of the search.
_CHANNELS = (
    "in_chans",
    "in_channels",
    "in_ch",
    "channels",
    "ch",
    "num_channels",
    "n_channels",
    "input_channels",
)
_SIDE = ("imgH", "img_height", "img_h", "img_size", "image_size", "imgsz", "input_size", "resolution", "size")
_WIDTH = (
    "input_dim",
    "in_features",
    "in_dim",
    "dim",
    "d_model",
    "hidden_size",
    "n_embd",
    "embed_dim",
    "width",
)
_VOCABULARY = ("vocab_size", "num_tokens", "n_vocab", "padded_vocab_size", "num_embeddings")
#: Names of arguments by their meaning.
_IMAGE = re.compile(r"^(img|image|images|pixel_values|pixels|imgs|x_img|rgb|frames?)$", re.IGNORECASE)
_TOKENS = re.compile(r"(^|_)(ids?|idx|tokens?|src|tgt|text|input_ids|targets?)$", re.IGNORECASE)
_MASK = re.compile(r"mask", re.IGNORECASE)
_TIME = re.compile(r"^(t|ts|time|times|timestep|timesteps|step|sigma|noise_level)$", re.IGNORECASE)
_SOUND = re.compile(r"(wav|waveform|audio|sound|speech)", re.IGNORECASE)
_MEL = re.compile(r"(mel|spec|spectrogram|features?)", re.IGNORECASE)
#: The greatest number of guesses, of which each takes one forward pass.
_TRIES = 32
#: The greatest number of parameters with which a guess is tried on the CPU when tensors without values fail.
_SMALL = 200_000_000


@dataclass(frozen=True)
class Guess:
    """Inputs that a model's forward pass accepted.

    Attributes:
        inputs: The arguments of `forward` by name.
        tried: The number of guesses that were tried.
    """

    inputs: dict[str, Any]
    tried: int


@dataclass(frozen=True)
class RequiredArgument:
    """An argument that a forward pass cannot do without, or that its constructor's values make necessary.

    Attributes:
        name: The name of the argument.
        annotation: The annotation as in the source; empty without one.
    """

    name: str
    annotation: str = ""


def required(forward: Any) -> list[RequiredArgument]:
    """Return the arguments of a forward pass that have no default, without `self`, `*args` and `**kwargs`."""
    needs = []
    for name, parameter in inspect.signature(forward).parameters.items():
        kinds = (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY, parameter.POSITIONAL_ONLY)
        if name != "self" and parameter.default is parameter.empty and parameter.kind in kinds:
            needs.append(RequiredArgument(name, _spelled(parameter.annotation)))
    return needs


def guess(model: nn.Module, values: dict[str, Any], dtype: torch.dtype) -> Guess | None:
    """Return inputs that the forward pass of a model accepts; None when none of the guesses fits.

    Args:
        model: A model on the meta device, or a small one on the CPU.
        values: The arguments of its constructor.
        dtype: The dtype of floating-point inputs in the result; they are tried in the dtype of the weights.
    """
    needs = required(model.forward)
    if not needs:  # *args, or no arguments; most such models take one tensor
        variadic = [
            p for p in inspect.signature(model.forward).parameters.values() if p.kind is p.VAR_POSITIONAL
        ]
        optional = [n for n in inspect.signature(model.forward).parameters if n not in ("args", "kwargs")]
        if variadic or not optional:
            return None
        needs = [RequiredArgument(optional[0])]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    shown = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    sized = _Sizes(model, values)
    needs = [*needs, *_conditions(model.forward, values, needs)]
    options = [
        list(_candidates(need, sized, _described(type(model), need.name, first=place == 0)))
        for place, need in enumerate(needs)
    ]
    if not all(options):
        return None
    for tried, chosen in enumerate(itertools.islice(_in_turn(options), _TRIES), 1):
        made = {need.name: one.make(shown) for need, one in zip(needs, chosen, strict=True)}
        if _takes(model, {name: value.to(device) for name, value in made.items()}):
            return Guess({need.name: one.make(dtype) for need, one in zip(needs, chosen, strict=True)}, tried)
    return None


def may_run(model: nn.Module) -> bool:
    """Return whether a model has at most `_SMALL` parameters, so that its forward pass is tried on the CPU."""
    return sum(parameter.numel() for parameter in model.parameters()) <= _SMALL


# -------------------------------------------------------------------------------------------------------- guesses


class _Sizes:
    """The sizes of made-up inputs, from the constructor's values, the model's attributes and its first layers."""

    def __init__(self, model: nn.Module, values: dict[str, Any]) -> None:
        self._values = values
        self._model = model
        kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.Embedding, nn.GRU, nn.LSTM, nn.RNN)
        self.first = [one for one in model.modules() if isinstance(one, kinds)][:3]

    def _of(self, names: Sequence[str], inside: Sequence[nn.Module] = ()) -> int | None:
        holder = getattr(self._model, "config", None) or getattr(self._model, "cfg", None)
        for name in names:
            for found in (
                self._values.get(name),
                getattr(holder, name, None),
                getattr(self._model, name, None),
                *(getattr(one, name, None) for one in inside),
            ):
                if isinstance(found, (list, tuple)) and found and isinstance(found[-1], int):
                    found = found[-1]
                if isinstance(found, int) and not isinstance(found, bool) and found > 0:
                    return found
        return None

    def stated(self, name: str) -> int | None:
        """Return the integer under this name among arguments, config and attributes; None where there is none."""
        return self._of((name,))

    @property
    def channels(self) -> int:
        """Return the number of channels of the model's images; 3 where nothing states it."""
        conv = next((one for one in self.first if isinstance(one, nn.Conv2d)), None)
        return conv.in_channels * 1 if conv is not None else self._of(_CHANNELS) or 3

    @property
    def sides(self) -> tuple[int, ...]:
        """Return candidates for the side of an image in pixels, the stated one first."""
        stated = self._of(_SIDE, list(self._model.children())[:4])
        return tuple(dict.fromkeys((stated, *_SIDES))) if stated is not None else _SIDES

    @property
    def frames(self) -> int | None:
        """Return the number of frames of a video; None where nothing states it."""
        return self._of(("num_frames", "n_frames", "frames", "clip_len", "all_frames"))

    @property
    def width(self) -> int | None:
        """Return the last dimension of the model's input vectors; None where nothing states it."""
        linear = next((one for one in self.first if isinstance(one, nn.Linear)), None)
        return self._of(_WIDTH) or (linear.in_features if linear is not None else None)

    @property
    def vocabulary(self) -> int:
        """Return the size of the vocabulary; 100 where nothing states it."""
        table = next((one for one in self._model.modules() if isinstance(one, nn.Embedding)), None)
        return self._of(_VOCABULARY) or (table.num_embeddings if table is not None else 100)


def _candidates(need: RequiredArgument, sizes: _Sizes, text: str) -> Iterator[TensorSpec]:
    """Yield guesses for one argument, the likeliest first.

    Args:
        need: The argument.
        sizes: The sizes that the model states.
        text: The docstring's words about the argument; empty without any.
    """
    name, said = need.name, f"{need.annotation} {text}"
    if _MASK.search(name):
        yield TensorSpec([1, _LENGTH], "bool", 1)
        yield TensorSpec([1, _LENGTH], "int64", 2)
        return
    if (own := re.match(r"\((\d+),\)", said)) is not None:  # of `_conditions`
        yield from (TensorSpec([1, int(own[1])]), TensorSpec([1, _LENGTH, int(own[1])]))
        return
    if re.search(r"LongTensor|Int\[|int64|torch\.long", said) or _TOKENS.search(name):
        yield TensorSpec([1, _LENGTH], "int64", sizes.vocabulary)
    if _TIME.match(name):
        yield TensorSpec([1])
        yield TensorSpec([1], "int64", 2)
        yield TensorSpec([1, 1])
        return
    if (shape := _shape_in(said, sizes)) is not None:
        yield TensorSpec(shape)
    if _IMAGE.match(name) and sizes.frames is None:
        for side in sizes.sides:
            yield TensorSpec([1, sizes.channels, side, side])
    if _SOUND.search(name):
        yield from (TensorSpec([1, _SAMPLES]), TensorSpec([1, 1, _SAMPLES]))
    for layer in sizes.first:
        yield from _into(layer, sizes, _MEL.search(name) is not None)
    frames = sizes.frames
    if frames is not None or re.search(r"video|frames|clip", name, re.IGNORECASE):
        shape = [frames or 8, sizes.channels, sizes.sides[0], sizes.sides[0]]
        yield from (TensorSpec([1, *shape]), TensorSpec([1, shape[1], shape[0], *shape[2:]]))
    width = sizes.width
    if width is not None:
        yield from (TensorSpec([1, _LENGTH, width]), TensorSpec([1, width]))
    for side in sizes.sides[:2]:
        yield TensorSpec([1, sizes.channels, side, side])
    yield TensorSpec([1, _LENGTH], "int64", sizes.vocabulary)


def _into(layer: nn.Module, sizes: _Sizes, mel: bool) -> Iterator[TensorSpec]:
    """Yield inputs that a layer accepts, one of the model's first; `mel` prefers the lengths of spectrograms."""
    if isinstance(layer, nn.Embedding):
        yield TensorSpec([1, _LENGTH], "int64", layer.num_embeddings)
    elif isinstance(layer, nn.Conv2d):
        for side in sizes.sides:
            yield TensorSpec([1, layer.in_channels, side, side])
        if layer.in_channels == 1:
            yield from (TensorSpec([1, 80, 200]), TensorSpec([1, 200, 80]))
    elif isinstance(layer, nn.Conv1d):
        lengths = (200, 3000, _SAMPLES) if mel or layer.in_channels > 8 else (_SAMPLES, 200)
        yield from (TensorSpec([1, layer.in_channels, length]) for length in lengths)
        yield TensorSpec([1, 200, layer.in_channels])
    elif isinstance(layer, nn.Conv3d):
        stated = sizes.sides[0]
        if layer.in_channels <= 4 and layer.kernel_size[0] != layer.kernel_size[1]:  # cuts a video to tubes
            frames = dict.fromkeys((sizes.frames or 16, 16, 8, 32))
            yield from (TensorSpec([1, layer.in_channels, count, stated, stated]) for count in frames)
        yield TensorSpec([1, layer.in_channels, stated, stated, stated])  # a volume, as of medical images
        yield from (TensorSpec([1, layer.in_channels, frames, 32, 32]) for frames in (8, 16, 32))
    elif isinstance(layer, nn.Linear):
        yield from (TensorSpec([1, _LENGTH, layer.in_features]), TensorSpec([1, layer.in_features]))
    else:
        width = getattr(layer, "input_size", None)
        if isinstance(width, int):
            yield from (TensorSpec([1, _LENGTH, width]), TensorSpec([_LENGTH, 1, width]))


#: The meaning of letters and words in shapes of docstrings and jaxtyping.
_AXES = {
    "b": 1, "n": 1, "batch": 1, "batch_size": 1, "bs": 1, "bsz": 1, "1": 1, "t": _LENGTH, "l": _LENGTH, "s": _LENGTH,
    "seq": _LENGTH, "seq_len": _LENGTH, "length": _LENGTH, "time": _LENGTH, "frames": _LENGTH, "num_frames": _LENGTH,
    "tokens": _LENGTH, "num_tokens": _LENGTH,
}  # fmt: skip


def _shape_in(text: str, sizes: _Sizes) -> list[int] | None:
    """Return the shape in a text: `(B, C, H, W)`, `Float[Tensor, "batch seq dim"]`; None without a usable one."""
    found = re.search(r'[\(\["]\s*((?:[A-Za-z_0-9]+\s*[, x*]\s*){1,5}[A-Za-z_0-9]+)\s*[\)\]"]', text)
    if found is None:
        return None
    axes = [one for one in re.split(r"[\s,*]+|\bx\b", found[1].lower()) if one and one != "tensor"]
    shape = []
    for at, axis in enumerate(axes):
        if axis.isdigit():
            shape.append(int(axis))
        elif axis in ("c", "channel", "channels", "in_chans", "in_channels"):
            shape.append(sizes.channels)
        elif axis in ("h", "w", "height", "width"):
            shape.append(sizes.sides[0])
        elif axis in ("d", "dim", "hidden", "hidden_size", "embed_dim", "features", "f", "e", "d_model"):
            if sizes.width is None:
                return None
            shape.append(sizes.width)
        elif axis in _AXES:
            shape.append(1 if at == 0 else _AXES[axis])
        elif (
            stated := sizes.stated(axis)
        ) is not None:  # an argument of the constructor, as in `(B, T, input_dim)`
            shape.append(stated)
        else:
            return None
    return shape if 2 <= len(shape) <= 5 and all(shape) else None


#: `input_values (`torch.FloatTensor` of shape `(batch_size, 1, time_steps)`)`, in any order of backticks.
_SHAPE = r"{name}`?\s*\(\s*`?(?:torch\.)?(?P<dtype>\w+)?`?[^()]*?of shape\s*`{{1,2}}\((?P<axes>[^)`]*)\)`"


def documented(cls: type, name: str) -> tuple[tuple[str, ...], str]:
    """Return the names of an argument's axes, and its dtype, as the docstring of `forward` states them.

    Args:
        cls: A model class.
        name: The name of an argument of its forward pass.

    Returns:
        A pair such as `(("batch_size", "1", "time_steps"), "FloatTensor")`; each is empty where nothing is stated.
    """
    text = inspect.getdoc(getattr(cls, "forward", None)) or ""
    found = re.search(_SHAPE.format(name=rf"(?<!\w){re.escape(name)}"), text)
    if found is None:
        return (), ""
    axes = (one.strip() for one in found["axes"].split(","))
    return tuple(axis for axis in axes if axis), found["dtype"] or ""


def _conditions(
    forward: Any, values: dict[str, Any], needs: Sequence[RequiredArgument]
) -> list[RequiredArgument]:
    """Return optional arguments that a constructor's value makes necessary, as `global_cond_dim` does `global_cond`."""
    taken = {need.name for need in needs}
    found = []
    for name, parameter in inspect.signature(forward).parameters.items():
        width = next(
            (values[f"{name}_{end}"] for end in ("dim", "channels", "size") if f"{name}_{end}" in values),
            None,
        )
        if name not in taken and parameter.default is None and isinstance(width, int) and width > 0:
            found.append(RequiredArgument(name, f"({width},)"))
    return found


def _described(cls: type, name: str, *, first: bool = False) -> str:
    """Return the lines of the class's or `forward`'s docstring on an argument; empty where there are none.

    With `first`, a description of `x` counts for an argument that they do not mention.
    """
    texts = [inspect.getdoc(cls) or "", inspect.getdoc(getattr(cls, "forward", None)) or ""]
    if first and name != "x" and not any(re.search(rf"\b{re.escape(name)}\b", text) for text in texts):
        name = "x"  # docstrings often call the first argument so, whatever its name
    for text in texts:
        found = re.search(
            rf"^\s*(?:@param\s+)?[`*]*{re.escape(name)}[`*]*\s*[:(].*(?:\n\s{{4,}}.*)?", text, re.MULTILINE
        )
        if found:
            return found[0]
    return ""


def _spelled(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    if isinstance(annotation, str):
        return annotation
    return (
        getattr(annotation, "__name__", "")
        if isinstance(annotation, type)
        else str(typing.cast(object, annotation))
    )


def _in_turn(options: list[list[TensorSpec]]) -> Iterator[tuple[TensorSpec, ...]]:
    """Yield combinations of one guess for each argument, by the sum of their ranks, so the likeliest first."""
    unique = [list({(tuple(o.shape), o.dtype): o for o in one}.values()) for one in options]
    ranked = sorted(
        itertools.islice(itertools.product(*(list(enumerate(one)) for one in unique)), 4096),
        key=lambda combination: sum(rank for rank, _ in combination),
    )
    for combination in ranked:
        yield tuple(one for _, one in combination)


def _takes(model: nn.Module, inputs: dict[str, Tensor]) -> bool:
    try:
        with torch.no_grad():
            model(**inputs)
    except (Exception, SystemExit):  # a forward pass may raise anything for a wrong guess
        return False
    return True
