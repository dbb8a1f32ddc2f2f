"""Build the MLX route and estimate its effort."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mpsprobe.knowledge import engines as knowledge_engines
from mpsprobe.knowledge import mlx
from mpsprobe.knowledge.mlx import Kind, MlxLibrary
from mpsprobe.quantities import enumerate_words
from mpsprobe.routes import alternatives, commands
from mpsprobe.routes.alternatives import Speed
from mpsprobe.routes.case import Case
from mpsprobe.routes.mlx.components import (
    GENERATION_DAYS,
    INPUT_DAYS,
    TEST_DAYS,
    VALIDATION_DAYS,
    components,
    libraries,
    parts,
)
from mpsprobe.run import Component, Evidence, Route, Table, TrainingStep, Viability

_SHOWN = 12
#: Model types that llama.cpp converts and runs, as `convert_hf_to_gguf.py` registers their classes, without `_`
#: and `-`.
_LLAMA_CPP = frozenset(
    {
        "llama",
        "mistral",
        "mixtral",
        "qwen2",
        "qwen2moe",
        "qwen3",
        "qwen3moe",
        "gemma",
        "gemma2",
        "gemma3",
        "gemma3text",
        "phi",
        "phi3",
        "falcon",
        "gpt2",
        "gptneox",
        "bloom",
        "mpt",
        "starcoder2",
        "stablelm",
        "olmo",
        "olmo2",
        "olmoe",
        "granite",
        "granitemoe",
        "cohere",
        "cohere2",
        "deepseekv2",
        "deepseekv3",
        "mamba",
        "mamba2",
        "rwkv6",
        "internlm2",
        "minicpm",
        "exaone",
        "nemotron",
        "jamba",
        "gptoss",
        "smollm3",
        "glm4",
        "ernie45",
        "hunyuanv1dense",
        "lfm2",
        "plamo",
        "baichuan",
        "orion",
        "t5",
        "bert",
        "nomicbert",
    }
)


@dataclass(frozen=True)
class Effort:
    """The days that a port to MLX takes.

    Attributes:
        days: The least and the greatest number of days by the rule; None when the target's parts are unknown.
        reused: Whether every part is reused unchanged; of a training step, whether mlx-lm trains it with LoRA.
        components: The parts of the target.
    """

    days: tuple[float, float] | None
    reused: bool
    components: tuple[Component, ...]

    @property
    def outside(self) -> tuple[float, float] | None:
        """Return the days with the rule's own uncertainty: half the least, and one and a half times the greatest."""
        return (self.days[0] * 0.5, self.days[1] * 1.5) if self.days else None


def effort(case: Case, packages: Sequence[MlxLibrary]) -> Effort:
    """Estimate the days that a port to MLX takes, part by part."""
    found = components(parts(case.uses), packages, [*case.proofs, *mlx.proofs()])
    if not found:
        return Effort(None, False, ())
    reused = all(one.does == "reuse" for one in found)
    low, high = sum(one.days[0] for one in found), sum(one.days[1] for one in found)
    if reused:  # the libraries include generation and tests, so only a check on the Mac remains
        high += VALIDATION_DAYS[1]
    else:
        written = sum(one.days[1] for one in found if one.does != "reuse")
        fed = GENERATION_DAYS if any("/generation/" in use.source for use in case.uses) else INPUT_DAYS
        tests = min(TEST_DAYS, written / 2)
        low += fed[0] + min(VALIDATION_DAYS[0], written / 2) + tests
        high += fed[1] + min(VALIDATION_DAYS[1], written) + tests
    return Effort((round(low, 1), round(high, 1)), reused, tuple(found))


def route(case: Case) -> tuple[Route, Effort]:
    """Return the MLX route as a report shows it, and the effort that its verdict is based on."""
    packages = libraries()
    if case.run.target.training is not None:
        return _of_training(case, case.run.target.training, packages)
    work = effort(case, packages)
    tables = {}
    if case.uses:
        tables["Op calls in MLX"] = _ops(case)
    if met := mlx.traps_met(case.uses):
        rows: list[list[str | int | float | bool | None]] = [
            [trap.title, count, trap.torch, trap.mlx, trap.fix] for trap, count in met[:_SHOWN]
        ]
        tables["Traps of MLX that apply"] = Table(["trap", "calls", "torch", "MLX", "what to do"], rows)
    quick = [
        *alternatives.speeds(case, "MLX"),
        *(alternatives.speeds(case, "llama.cpp") if _has_gguf(case) else []),
    ]
    if quick:
        tables["Speed by engine and quantisation"] = alternatives.table(quick)
    found = Route(
        name="mlx",
        viability=_viability(work),
        sentence=_sentence(work, quick),
        reasons=[*_reasons(case, work, packages), *_others(case)],
        evidence=Evidence.PREDICTED,
        components=list(work.components),
        tables=tables,
        commands=commands.of_mlx(case, packages),
    )
    return found, work


def _of_training(case: Case, training: TrainingStep, packages: Sequence[MlxLibrary]) -> tuple[Route, Effort]:
    """Return the route of an optimisation step: mlx-lm's own trainer if that has the architecture, else unknown.

    What mlx-lm trains was read in the source of its release 0.32.2 (`lora.py`, `tuner/utils.py`): LoRA adapters on
    every linear layer of every model that it loads, quantised ones included, or the whole model.
    """
    library = next(one for one in packages if one.name == "mlx-lm")
    held = bool(case.architecture) and library.module(case.architecture) is not None
    if held:
        command = f"mlx_lm.lora --model MODEL --train --data FOLDER --fine-tune-type {training.method}"
        viability, sentence = (
            Viability.CHANGES,
            f"{library.name} {library.version} trains {case.architecture} with a loop of its own: {command}.",
        )
        reasons = [
            "Your own loop, loss and data loading do not run there: the data are JSON lines of texts or chats.",
            'pip install "mlx-lm[train]"; its LoRA adapters are fused by mlx_lm.fuse, and are no adapters of peft.',
            f"Read from the source of {library.name} {library.version}; no training of this project ran on Metal.",
        ]
        if training.method == "lora":
            reasons.insert(
                1, "Weights quantised to 4 or 8 bits by mlx_lm.convert -q are trained likewise (QLoRA)."
            )
    else:
        what = case.architecture or "this target"
        viability, sentence = (
            Viability.UNKNOWN,
            f"mlx-lm {library.version} has no trainer for {what}: forward pass, loss and loop would be written anew.",
        )
        reasons = [
            "MLX differentiates what is written in it (mlx.nn.value_and_grad), so no backward has to be ported.",
            "mpsprobe predict without --train says what porting the forward pass takes.",
        ]
    reused = held and training.method == "lora"
    route = Route(
        name="mlx", viability=viability, sentence=sentence, reasons=reasons, evidence=Evidence.PREDICTED
    )
    return route, Effort(None, reused, ())


def _viability(work: Effort) -> Viability:
    if work.days is None:
        return Viability.UNKNOWN
    states = {one.state for one in work.components}
    if work.reused:
        return Viability.UNKNOWN if "name-only" in states else Viability.YES
    return Viability.CHANGES


def _has_gguf(case: Case) -> bool:
    """Return whether llama.cpp supports the architecture, by `_LLAMA_CPP`."""
    return case.architecture.replace("_", "").replace("-", "") in _LLAMA_CPP


def _others(case: Case) -> list[str]:
    if not _has_gguf(case):
        return []
    engine = knowledge_engines.engine("llama.cpp")
    return [
        f"llama.cpp and Ollama run this architecture from a GGUF file too ({engine.how}); its own table of Macs: "
        f"{engine.table}."
    ]


def _sentence(work: Effort, quick: Sequence[Speed]) -> str:
    text = _verdict(work)
    best = next((one for one in quick if one.engine == "MLX" and one.expected is not None), None)
    if best is None or not work.reused:
        return text
    return f"{text} Expected with {best.quantisation} weights: {best.words}."


def _verdict(work: Effort) -> str:
    if work.days is None:
        return "The target's parts are not known, so nothing is said of MLX."
    if not work.reused:
        return f"It has to be ported: about {_span(work.days)} days of work; the estimate may be off by half."
    if any(one.state == "name-only" for one in work.components):
        return "MLX's libraries have a model of that name; no parity run has shown that its numbers agree."
    return "MLX's libraries hold it, and a small random copy gave the same logits there as in torch."


def _reasons(case: Case, work: Effort, packages: Sequence[MlxLibrary]) -> list[str]:
    versions = enumerate_words([f"{one.name} {one.version}" for one in packages])
    reasons = [f"Read from the source of {versions}; a name there is not proof."]
    if case.architecture:
        homes = [one.name for one in packages if one.module(case.architecture)]
        where = enumerate_words(homes) if homes else "none"
        reasons.append(
            f"The whole target, {case.architecture}: {where} {'has' if len(homes) < 2 else 'have'} it."
        )
    if work.days is not None:
        outside = work.outside
        assert outside is not None
        by_kind = {
            kind: sum(one.does == kind for one in work.components) for kind in ("reuse", "wrap", "port")
        }
        counted = enumerate_words([f"{count} to {kind}" for kind, count in by_kind.items() if count])
        parts = len(work.components)
        reasons.append(f"{parts} parts: {counted}." if parts > 1 else f"One part, {counted.lstrip('1 ')}.")
        reasons.append(
            f"{_span(work.days)} days by the rule; its uncertainty makes that {_span(outside)}."
            if not work.reused
            else "Nothing is written: minutes of set-up (pip install; weights are converted where the Hub has none)."
        )
    unknown = sorted({use.op for use in case.uses if mlx.row_for(use) is None})
    if unknown:
        reasons.append(
            f"Not in the map from ATen to MLX, and counted as to be written: {', '.join(unknown[:8])}."
        )
    if any(one.state == "not-run-on-Metal" for one in work.components):
        reasons.append("No parity run of this project ran on Metal.")
    reasons.append(
        "ExecuTorch 1.5 has an MLX delegate, experimental, that lowers ahead of time on any machine; whether it takes "
        "this target was not tried."
    )
    return reasons


def _ops(case: Case) -> Table:
    calls: dict[str, int] = {}
    names: dict[str, set[str]] = {}
    for use in case.uses:
        row = mlx.row_for(use)
        kind = (row.kind if row else Kind.UNKNOWN).value
        calls[kind] = calls.get(kind, 0) + use.count
        names.setdefault(kind, set()).add(use.op)
    rows: list[list[str | int | float | bool | None]] = [
        [_MEANING[kind], len(names[kind.value]), calls[kind.value], _listed(names[kind.value], kind)]
        for kind in Kind
        if kind.value in calls
    ]
    return Table(["in MLX", "ops", "calls", "which"], rows)


_MEANING = {
    Kind.DIRECT: "one call",
    Kind.COMPOSE: "a few calls",
    Kind.HOST: "partly on the host",
    Kind.MISSING: "to be written",
    Kind.UNKNOWN: "not in the map",
}


def _listed(names: set[str], kind: Kind) -> str:
    if kind is Kind.DIRECT:
        return ""
    shown = sorted(names)[:8]
    return ", ".join(shown) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _span(days: tuple[float, float]) -> str:
    """Return days as words: to the half day from 1 day on, since the rule is no more exact."""
    low, high = (f"{round(2 * d) / 2 if d >= 1 else d:.1f}".removesuffix(".0") for d in days)
    return low if low == high else f"{low} to {high}"
