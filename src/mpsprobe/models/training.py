"""One optimisation step of a target in place of its inference: forward, backward, clipping, optimiser step.

`TrainingAdapter` wraps any other adapter, so that every device (memoryless, emulated or real) and every later stage
(op uses, memory, recipe) sees a training step where it would otherwise see an inference.
"""

from __future__ import annotations

import inspect
import re
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mpsprobe.errors import TargetError, UsageError
from mpsprobe.models.adapter import Adapter, Batch, Outputs
from mpsprobe.options import Settings
from mpsprobe.run import TrainingStep

#: The norm to which gradients are clipped: the default of transformers' Trainer (`max_grad_norm`).
CLIP_NORM = 1.0
#: The rank of the LoRA matrices: the default of peft's `LoraConfig`.
LORA_RANK = 8
#: The learning rate: the default of transformers' Trainer.
LEARNING_RATE = 5e-5

#: The learning rate of Lion: its authors advise a fifth of AdamW's or less (arXiv 2302.06675, section 5).
LION_RATE = LEARNING_RATE / 5

#: The number of tokens of a made-up text for a clip of sound, and of one that is aligned with few frames (CTC).
_TEXT_TOKENS, _CTC_TOKENS = 32, 8
#: The suffixes of names of classes with one label for each row.
_CLASSIFIERS = (
    "ForSequenceClassification",
    "ForImageClassification",
    "ForAudioClassification",
    "ForVideoClassification",
)

Parameters = Iterable[nn.Parameter]


class Lion(torch.optim.Optimizer):
    """Move each parameter by the sign of an interpolated momentum (arXiv 2302.06675, program 1), without weight decay.

    torch.optim has no such optimiser. Its only state is one momentum of the parameter's size. `betas` are the weights
    of the momentum in the update, and in its own moving average.
    """

    def __init__(self, parameters: Parameters, lr: float, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the parameters once; `closure` is ignored."""
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                update = momentum.lerp(parameter.grad, 1 - first).sign_()
                parameter.add_(update, alpha=-group["lr"])
                momentum.lerp_(parameter.grad, 1 - second)


def _adamw(parameters: Parameters) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=LEARNING_RATE)


def _sgd(parameters: Parameters) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=0.9)


def _adafactor(parameters: Parameters) -> torch.optim.Optimizer:
    return torch.optim.Adafactor(parameters, lr=LEARNING_RATE)


def _lion(parameters: Parameters) -> torch.optim.Optimizer:
    return Lion(parameters, lr=LION_RATE)


_OPTIMIZERS: Mapping[str, Callable[[Parameters], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "sgd": _sgd,
    "adafactor": _adafactor,
    "lion": _lion,
}


@dataclass(frozen=True)
class TrainingPlan:
    """The training that the options request: what is trained, with which optimiser, in which batches.

    Attributes:
        method: `"full"` trains every parameter; `"lora"` trains low-rank matrices added to the model's linear layers.
        optimizer: A name of `options.OPTIMIZERS`.
        checkpointing: Whether activations are recomputed in the backward pass instead of being kept.
        accumulate: The number of batches whose gradients accumulate before the optimiser steps.
    """

    method: str
    optimizer: str
    checkpointing: bool = False
    accumulate: int = 1

    def step_of(self, rows: int) -> TrainingStep:
        """Return the plan as a run's document stores it, for batches of `rows` samples, accumulated ones added up."""
        return TrainingStep(method=self.method, optimizer=self.optimizer, rows=rows * self.accumulate)

    @property
    def words(self) -> str:
        """Describe the plan in a few words: `a full training step with adamw and gradient checkpointing`."""
        kind = "a full training step" if self.method == "full" else f"a LoRA step of rank {LORA_RANK}"
        more = [f"{self.accumulate} accumulated batches"] if self.accumulate > 1 else []
        more += ["gradient checkpointing"] if self.checkpointing else []
        return " and ".join([f"{kind} with {self.optimizer}", *more])


class TrainingAdapter(Adapter):
    """Wrap another adapter so that its inference is one optimisation step.

    A target's own `train_step` replaces the step. Otherwise the loss is the model's own if its class takes labels,
    with its input as labels or with made-up ones; else it is the mean square of each floating-point output, summed.
    Such a loss runs the ops of a training step, but says nothing about how well the model learns.

    Attributes:
        inner: The adapter that loads, samples and prepares.
        plan: How the target is trained.
    """

    meaning = "the loss is finite"

    def __init__(self, inner: Adapter, plan: TrainingPlan) -> None:
        super().__init__(inner.snapshot, inner.profile)
        self.inner = inner
        self.plan = plan
        self.weights = inner.weights
        self.workload = inner.workload
        self._notes: list[str] = []
        self._optimizers: weakref.WeakKeyDictionary[nn.Module, torch.optim.Optimizer] = (
            weakref.WeakKeyDictionary()
        )

    @property
    def notes(self) -> list[str]:
        return [*self.inner.notes, *self._notes]

    @property
    def doing(self) -> str:
        return self.plan.words

    @property
    def grad_mode(self) -> AbstractContextManager[Any]:
        return torch.enable_grad()

    def class_name(self, model: nn.Module) -> str:
        return self.inner.class_name(_base_of(model))

    def load(self, device: torch.device, dtype: str) -> nn.Module:
        self.inner.weights = self.weights
        with torch.no_grad():
            model = self.inner.load(device, dtype)
        if self.plan.checkpointing:
            _checkpoint(model)
        if self.plan.method == "lora":
            model = _with_lora(model)
        elif getattr(self.inner, "train_step", None) is None:
            model.requires_grad_(True)  # a target with its own step freezes parameters itself
        if self.plan.method == "full":
            self._advise_of_dtype(model)
        # Dropout is switched off, because no reference could repeat it; the ops are otherwise those of training.
        model = _without_dropout(model.train() if self.plan.checkpointing else model.eval())
        self._optimizers[model] = self._warm(model)
        return model

    def shrink(self) -> list[str] | None:
        return self.inner.shrink()

    def sample(self) -> dict[str, Any]:
        return self.inner.sample()

    def prepare(self, sample: dict[str, Any]) -> Batch:
        self.inner.workload = self.workload
        return self.inner.prepare(sample)

    def forward(self, model: nn.Module, batch: Batch) -> Outputs:
        with torch.no_grad():
            return self.inner.forward(model, batch)

    def infer(self, model: nn.Module, batch: Batch) -> Outputs:
        """Take one optimisation step, and return its loss and norm as outputs.

        Returns:
            `loss` before the step, and `gradient_norm` before clipping, each a scalar tensor. A target's own
            `train_step` decides about clipping, so its step has no norm.
        """
        optimizer = self.optimizer(model)
        own = getattr(self.inner, "train_step", None)
        if own is not None:
            return {"loss": own(model, batch, optimizer).detach()}
        loss = self.backward(model, batch)
        norm = nn.utils.clip_grad_norm_(trained_parameters(model), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return {"loss": loss, "gradient_norm": norm.detach()}

    def backward(
        self, model: nn.Module, batch: Batch, scale: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Accumulate the gradients of a step's batches; the weights do not change.

        Args:
            model: The model to train.
            batch: The input, used for each of `plan.accumulate` batches.
            scale: A function that is applied to each loss before its backward pass, such as `GradScaler.scale`; None
                to leave losses as they are.

        Returns:
            The mean loss of the batches before `scale`, a scalar without a graph.

        Raises:
            TargetError: No output of the model carries a gradient.
        """
        total: Tensor | None = None
        for _ in range(self.plan.accumulate):
            loss = self._loss(model, dict(batch)) / self.plan.accumulate
            (loss if scale is None else scale(loss)).backward()
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        return total

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimiser of a model, which the first call makes, and which keeps its states between steps.

        Raises:
            TargetError: Every parameter of the model is frozen.
        """
        if model not in self._optimizers:
            self._optimizers[model] = self._warm(model)
        return self._optimizers[model]

    def new_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Give a model a new optimiser without states, as when a script resumes without them; return it."""
        self._optimizers[model] = made = _OPTIMIZERS[self.plan.optimizer](trained_parameters(model))
        return made

    def extract(self, raw: Outputs) -> Outputs:
        return {name: value.float().cpu() for name, value in raw.items()}

    def judge(self, outputs: Outputs) -> list[str] | None:
        return [
            f"The {name.replace('_', ' ')} is not finite."
            for name, value in outputs.items()
            if not value.isfinite()
        ]

    def held(self, model: nn.Module) -> dict[str, int]:
        """Return the bytes of the gradients and of the optimiser's states, which training holds beside the weights.

        Scalar states, such as AdamW's step count, are left out.
        """
        parameters = trained_parameters(model)
        states = [one for state in self.optimizer(model).state.values() for one in state.values()]
        return {
            "gradients": sum(one.numel() * one.element_size() for one in parameters),
            "optimiser states": sum(
                one.numel() * one.element_size() for one in states if isinstance(one, Tensor) and one.ndim
            ),
        }

    def judge_repeat(self, outputs: Outputs, repeated: Outputs) -> tuple[bool, str]:
        before, after = float(outputs["loss"]), float(repeated["loss"])
        summary = f"from {before:.6g} to {after:.6g} on a repeated batch"
        if after < before:
            return True, f"A step changes the model: the loss fell {summary}."
        return False, f"The loss did not fall: it went {summary}."

    def _warm(self, model: nn.Module) -> torch.optim.Optimizer:
        """Make the optimiser with states of zeros, allocated as after one step, without changing the weights.

        The gradients of that step are ones, which keep it finite in every dtype: AdamW divides by the root of their
        square.

        Raises:
            TargetError: Every parameter of the model is frozen.
        """
        if not trained_parameters(model):
            raise TargetError(
                f"{self.class_name(model)}: every parameter is frozen, so there is nothing to train.",
                "Leave some with requires_grad in load.",
            )
        optimizer = _OPTIMIZERS[self.plan.optimizer](trained_parameters(model))
        rates = [group["lr"] for group in optimizer.param_groups]
        for parameter in trained_parameters(model):
            parameter.grad = torch.ones_like(parameter)
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        with torch.no_grad():
            optimizer.step()
            for state in optimizer.state.values():
                for value in state.values():
                    if isinstance(value, Tensor) and value.ndim:
                        value.zero_()
        optimizer.zero_grad(set_to_none=True)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        return optimizer

    def _loss(self, model: nn.Module, batch: Batch) -> Tensor:
        labelled = _labels(_base_of(model), batch)
        if labelled is not None:
            labels, what = labelled
            self._note(f"The loss is the model's own, with {what}.")
            found = getattr(model(**batch, labels=labels), "loss", None)
            if isinstance(found, Tensor):
                return found
        self._note("The loss is the mean square of the outputs: the class takes no labels for its input.")
        made = self.inner.infer(model, batch) if not _takes(model, batch) else model(**batch)
        floating = [
            tensor for tensor in _tensors(made) if tensor.is_floating_point() and tensor.requires_grad
        ]
        if not floating:
            raise TargetError(
                f"{self.class_name(model)}: no output of it carries a gradient, so there is nothing to train.",
                "Write the step in a target.py: its infer may call backward and an optimiser.",
            )
        return torch.stack([tensor.float().square().mean() for tensor in floating]).sum()

    def _advise_of_dtype(self, model: nn.Module) -> None:
        """Add a note that updates may be rounded away, if any weights are in a 16-bit dtype."""
        narrow = next(
            (one.dtype for one in model.parameters() if one.dtype in (torch.float16, torch.bfloat16)), None
        )
        if narrow is None:
            return
        name = str(narrow).removeprefix("torch.")
        self._note(
            f"Weights in {name} round away updates below {torch.finfo(narrow).eps:.2g} of their size: the usual "
            f"recipe is float32 weights under autocast (--dtype float32 --autocast {name}), at twice the bytes."
        )

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that require gradients, which are those that an optimiser updates."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _base_of(model: nn.Module) -> nn.Module:
    """Return the model inside peft's wrapper; any other model itself."""
    base = getattr(model, "get_base_model", None)
    return base() if callable(base) else model


def _takes(model: nn.Module, batch: Batch) -> bool:
    """Return whether the forward pass takes every name in the batch, if need be as `**kwargs`."""
    parameters = inspect.signature(_base_of(model).forward).parameters
    open_ended = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    return open_ended or all(name in parameters for name in batch)


def _labels(model: nn.Module, batch: Batch) -> tuple[Tensor, str] | None:
    """Return labels for the loss of the class, with a description; None where the class has no loss for this batch.

    Token ids are their own labels. Others are made up, because only their shape affects the ops.
    """
    if "labels" not in inspect.signature(model.forward).parameters or "labels" in batch:
        return None
    name, config = type(model).__name__, getattr(model, "config", None)
    ids = batch.get("decoder_input_ids", batch.get("input_ids"))
    if name.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForMaskedLM")):
        if isinstance(ids, Tensor):
            return ids, "its input as labels"
        if getattr(config, "is_encoder_decoder", False):
            return _texts(batch, _TEXT_TOKENS, config), f"made-up texts of {_TEXT_TOKENS} tokens as labels"
        return None
    first = next((one for one in batch.values() if isinstance(one, Tensor) and one.ndim > 1), None)
    classes = int(getattr(config, "num_labels", 0) or 0)
    if first is None:
        return None
    if name.endswith("ForCTC"):
        return _texts(batch, _CTC_TOKENS, config), f"made-up texts of {_CTC_TOKENS} tokens as labels"
    if name.endswith(_CLASSIFIERS) and classes:
        labels = torch.arange(first.shape[0], device=first.device) % classes
        return (labels.float() if classes == 1 else labels), "made-up classes as labels"
    if name.endswith("ForTokenClassification") and classes and isinstance(ids, Tensor):
        return ids % classes, "made-up classes as labels"
    return None


def _texts(batch: Batch, length: int, config: Any) -> Tensor:
    """Return made-up token ids from 1 up as labels, `(rows of the batch, length)` int64, within the vocabulary."""
    first = next(one for one in batch.values() if isinstance(one, Tensor) and one.ndim > 1)
    vocabulary = int(getattr(config, "vocab_size", 0) or 3)
    row = torch.arange(length, device=first.device) % max(1, vocabulary - 2) + 1
    return row.repeat(first.shape[0], 1)


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _tensors(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)


def _checkpoint(model: nn.Module) -> None:
    """Switch on gradient checkpointing by transformers' method for it, in the variant that is not re-entrant.

    Raises:
        UsageError: The model's class does not support it.
    """
    enable = getattr(model, "gradient_checkpointing_enable", None)
    if enable is None or not getattr(model, "supports_gradient_checkpointing", True):
        raise UsageError(
            f"--gradient-checkpointing: {type(model).__name__} does not support it.", "Leave it out."
        )
    enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    return model


def _with_lora(model: nn.Module) -> nn.Module:
    """Return the model with LoRA matrices on its linear layers, and everything else frozen.

    An output layer over a vocabulary is left out, as in peft's "all-linear". So are the output projections of
    `nn.MultiheadAttention` and of Mamba's mixers: those modules may read the weight without calling the layer, so
    that a matrix added to it would learn nothing; peft refuses Mamba's for that reason.

    Raises:
        UsageError: The package peft is not installed, or the model has no layer for a matrix.
    """
    try:
        import peft
    except ImportError as problem:
        raise UsageError(
            "--train lora: needs the package peft.", "python -m pip install 'peft>=0.15'"
        ) from problem
    from transformers.pytorch_utils import Conv1D

    output = getattr(model, "get_output_embeddings", lambda: None)()
    unread = {
        f"{path}.out_proj".removeprefix(".")
        for path, one in model.named_modules()
        if isinstance(one, nn.MultiheadAttention) or (hasattr(one, "A_log") and hasattr(one, "out_proj"))
    }
    names = [
        path
        for path, one in model.named_modules()
        if isinstance(one, (nn.Linear, Conv1D)) and one is not output and path not in unread
    ]
    if not names:
        raise UsageError(
            f"--train lora: {type(model).__name__} has no linear layer for LoRA matrices to stand beside.",
            "Give --train full.",
        )
    wrapped: nn.Module = peft.get_peft_model(
        model, peft.LoraConfig(r=LORA_RANK, target_modules="|".join(map(re.escape, names)))
    )
    return wrapped


def trained(adapter: Adapter, settings: Settings) -> Adapter:
    """Wrap an adapter so that its inference is a training step, if the options request it; else return it."""
    if settings.train is None:
        return adapter
    plan = TrainingPlan(
        settings.train,
        settings.optimizer or "adamw",
        settings.gradient_checkpointing,
        settings.accumulate or 1,
    )
    return TrainingAdapter(adapter, plan)


def untrained(adapter: Adapter) -> Adapter:
    """Return the adapter inside a `TrainingAdapter`; any other adapter itself."""
    return adapter.inner if isinstance(adapter, TrainingAdapter) else adapter
