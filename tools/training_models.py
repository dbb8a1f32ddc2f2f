"""Predict the training steps of twenty-two models at full size, and emulate them at a small one.

    python tools/training_models.py run [--only NAME] [--again]
    python tools/training_models.py table

`run` computes the results that are missing or failed, each in a process of its own, and adds them to
docs/training_models.json. `table` writes the table into docs/training.md. Weights are random and made at run time;
sizes and their sources are those of tools/campaign_targets.toml. A row is made of three recordings:

- at full size, for the newest release: parameters, memory and the time of a step, on `MAC`;
- at a small size, for every torch release: what is not native there. A small model calls the same ops as a large one;
- at a small size with real values on the virtual device: every check of the training stage except that of worker
  processes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import campaign_target

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "training_models.json"
PAGE = ROOT / "docs" / "training.md"
BEGIN, END = "<!-- models: begin -->\n", "<!-- models: end -->\n"
MAC, RELEASE = "m4-max-40c-64", "2.13"
WAYS = ("full", "lora")
#: The sizes of a small model; a config gets those that it has.
_SMALL = {
    "hidden_size": 64,
    "d_model": 64,
    "n_embd": 64,
    "intermediate_size": 128,
    "ffn_dim": 128,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "d_ff": 128,
    "d_kv": 16,
    "head_dim": 16,
    "num_hidden_layers": 2,
    "num_layers": 2,
    "n_layer": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_attention_heads": 4,
    "num_heads": 4,
    "n_head": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "word_embed_proj_dim": 64,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "state_size": 8,
    "time_step_rank": 4,
}
_TEXT = {"prompt_tokens": 512, "batch": 4}
_IMAGE = {"batch": 16}


@dataclass(frozen=True)
class Row:
    """A model whose training steps are predicted and emulated, with its sizes and workloads.

    Attributes:
        name: The name in campaign_targets.toml, or that in the table for a model that is not there.
        workload: The fields of `Settings` at full size.
        model: The argument MODEL of `mpsprobe`, for a model that is not in campaign_targets.toml.
        config: The config at full size of a class that `model` names; `small` has the differences at a small size.
        small: The values that differ at a small size, in addition to `_SMALL`.
        small_workload: The fields of `Settings` at a small size.
        dtype: The dtype of the weights for LoRA; full training keeps them in float32.
    """

    name: str
    workload: dict[str, int] = field(default_factory=dict)
    model: str = ""
    config: dict[str, Any] | None = None
    small: dict[str, Any] = field(default_factory=dict)
    small_workload: dict[str, int] = field(default_factory=dict)
    dtype: str = "float32"


_SPECIAL_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_CLIP = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
_UNET = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
_UNET_INPUTS = {
    "sample": {"shape": [2, 4, 64, 64]},
    "timestep": {"shape": [2], "dtype": "int64"},
    "encoder_hidden_states": {"shape": [2, 77, 768]},
}
ROWS = (
    Row("gpt2", _TEXT, small={"n_inner": 128}, dtype="float32"),
    Row("opt-125m", _TEXT, dtype="float16"),
    Row("llama-3-8b", _TEXT, dtype="bfloat16"),
    Row("qwen3-8b", _TEXT, dtype="bfloat16"),
    Row("gemma-2-2b", _TEXT, dtype="bfloat16"),
    Row("phi-3-mini", _TEXT, small=_SPECIAL_IDS, dtype="bfloat16"),
    Row("smollm3-3b", _TEXT, small={"no_rope_layers": [1, 0], **_SPECIAL_IDS}, dtype="bfloat16"),
    Row("olmoe-1b-7b", {"prompt_tokens": 128}, dtype="bfloat16"),
    Row("mamba-130m", {"prompt_tokens": 64, "batch": 4}, small_workload={"prompt_tokens": 8}),
    Row("bert-base", _TEXT),
    Row("roberta-base", _TEXT),
    Row("modernbert-base", _TEXT, small=_SPECIAL_IDS | {"cls_token_id": 1, "sep_token_id": 2}),
    Row("t5-small", _TEXT, small={"num_decoder_layers": 2}),
    Row("bart-large", _TEXT),
    Row(
        "whisper-large-v3",
        {"batch": 4},
        small=_SPECIAL_IDS | {"decoder_start_token_id": 3, "num_mel_bins": 80},
    ),
    Row("wav2vec2-base", {"batch": 4, "audio_seconds": 10}, small_workload={"audio_seconds": 1}),
    Row("vit-base", _IMAGE),
    Row("dinov2-base", {"batch": 4}, small={"image_size": 56}),
    Row(
        "clip-vit-base",
        _IMAGE,
        small={"text_config": {**_CLIP, "vocab_size": 1000, **_SPECIAL_IDS}, "vision_config": _CLIP},
    ),
    Row("resnet-50", _IMAGE, small={"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]}),
    Row(
        "sd-1.5-unet",
        model="diffusers:UNet2DConditionModel",
        config={**_UNET, "mpsprobe": {"inputs": _UNET_INPUTS}},
        small={
            "sample_size": 8,
            "block_out_channels": [32, 64],
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
            "layers_per_block": 1,
            "cross_attention_dim": 32,
            "mpsprobe": {
                "inputs": {
                    "sample": {"shape": [2, 4, 8, 8]},
                    "timestep": {"shape": [2], "dtype": "int64"},
                    "encoder_hidden_states": {"shape": [2, 77, 32]},
                }
            },
        },
    ),
    Row("diffusion policy", model=str(ROOT / "examples" / "training" / "policy.py")),
)


def settings_of(row: Row, way: str, folder: Path, *, small: bool) -> Any:
    """Return the options for training a row's model in one way, and write the config that they name into `folder`."""
    from mpsprobe.options import Settings

    dtype = "float32" if way == "full" else row.dtype
    workload = row.small_workload if small else row.workload
    if row.model.endswith(".py"):
        return Settings(model=row.model, train=way, dtype=dtype, **workload)  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "config.json"
    if row.model:
        file.write_text(json.dumps({**(row.config or {}), **(row.small if small else {})}))
        return Settings(
            model=row.model,
            config=str(file),
            random_init=True,
            train=way,
            dtype=dtype,
            **workload,  # type: ignore[arg-type]
        )
    target = next(one for one in campaign_target.read() if one.name == row.name)
    target.write(folder)
    config = json.loads(file.read_text())
    if small:
        import transformers

        known = getattr(transformers, target.cls).config_class().to_dict()
        config |= {name: size for name, size in _SMALL.items() if name in known} | row.small
    file.write_text(json.dumps({**config, "dtype": dtype}))
    return Settings(model=str(folder), random_init=True, train=way, dtype=dtype, **workload)  # type: ignore[arg-type]


def full_size(row: Row, way: str, folder: Path) -> dict[str, Any]:
    """Return parameters, memory and the time of a step at full size, predicted for `MAC` with `RELEASE`."""
    from mpsprobe.forecast.memory import judge
    from mpsprobe.knowledge import chips
    from mpsprobe.prediction import command
    from mpsprobe.run import Fit

    settings = settings_of(row, way, folder, small=False).replace(mac=MAC, torch=RELEASE)
    run = command.predict(settings, routes=False)
    forecast = run.outlook.forecast if run.outlook else None
    assert run.predicted is not None
    assert forecast is not None
    assert forecast.memory is not None
    assert forecast.time is not None
    needed = forecast.memory.needed_bytes or 0
    sold = sorted({size for chip in chips.all_chips() for one in chip.variants for size in one.memory_gib})
    fitting = (
        size
        for size in sold
        if judge(needed, chips.working_set(size << 30, None)[0], size << 30)[0] is Fit.COMFORTABLE
    )
    seconds = forecast.time.per_sample
    return {
        "class": run.target.architecture,
        "parameters": run.target.parameters,
        "inputs": list(run.predicted.inputs),
        "needed_bytes": needed,
        "parts": {part.name: part.bytes for part in forecast.memory.parts if not part.system},
        "smallest_gib": next(fitting, None),
        "seconds": [seconds.expected, seconds.low, seconds.high] if seconds else None,
        "native": run.fully_native,
        "stopped": run.predicted.stopped[:200],
    }


def releases(row: Row, way: str, folder: Path) -> dict[str, Any]:
    """Return by torch release the ops of a small model's training step that are not native, and the findings."""
    from mpsprobe.prediction import command

    settings = settings_of(row, way, folder, small=True).replace(torch=RELEASE)
    run = command.predict(settings, every_release=True, routes=False)
    assert run.predicted is not None
    return {
        "first_fully_native": run.predicted.first_fully_native,
        "releases": {
            one.torch: {
                "native": one.fully_native,
                "other": one.not_native,
                "findings": one.findings,
                "stopped": one.stopped[:160],
            }
            for one in run.predicted.releases
        },
    }


def emulated(row: Row, way: str, folder: Path) -> dict[str, Any]:
    """Return status and message of each check of the training stage on the virtual device."""
    import torch

    from mpsprobe.device.emulated import Emulated
    from mpsprobe.models import targets
    from mpsprobe.models.adapter import Weights
    from mpsprobe.models.hub.snapshot import Snapshot
    from mpsprobe.models.weightless import config_only
    from mpsprobe.phases import data, training_checks, training_steps, transfer
    from mpsprobe.run import Mac

    ref = targets.resolve(settings_of(row, way, folder, small=True))
    place = config_only.obtain(ref).path if not row.model.endswith(".py") else Path(row.model).parent
    stored = Weights.STORED if row.model.endswith(".py") else Weights.RANDOM
    adapter, _ = config_only.make(ref, place, stored)
    adapter.workload = ref.settings.workload
    device = Emulated(Mac(torch=RELEASE))
    with device.opened():
        loaded = transfer.load(adapter, ref.profile, Snapshot(place, {}, (), 0, 0, {}, None), device)
        made = training_steps.train(data.prepare(loaded))
        with torch.enable_grad():
            found = {one.name: one(made) for one in training_checks.CHECKS if one.name != "workers"}
    return {name: [one.status.value, one.message] for name, one in found.items()}


_PARTS = {"predicted": full_size, "releases": releases, "emulated": emulated}


def run(only: list[str], again: bool) -> None:
    """Compute the results that are missing or failed (all with `again`), and add each to the file at once."""
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    warnings.simplefilter("ignore")
    import diffusers  # noqa: F401  (shared by all forks)
    import peft  # noqa: F401
    import torch
    import transformers.modeling_utils  # noqa: F401

    import mpsprobe.phases.training_checks
    import mpsprobe.prediction.command  # noqa: F401

    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    for part, make in _PARTS.items():
        for row in ROWS:
            for way in WAYS:
                key = f"{row.name} / {way}"
                known = results.get(key, {}).get(part, {"error": "not run"})
                if (only and row.name not in only) or ("error" not in known and not again):
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    answer = _forked(make, row, way, Path(folder))
                results.setdefault(key, {})[part] = answer
                sys.stderr.write(f"{part:10}{key:28}{answer.get('error', 'done')}\n")
                lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(one)}" for name, one in results.items())
                RESULTS.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def _forked(make: Any, row: Row, way: str, folder: Path) -> dict[str, Any]:
    """Return the result of a function in its own process, or the error that ended it."""
    file = folder / "answer.json"
    pid = os.fork()
    if pid == 0:
        try:
            answer = make(row, way, folder / "model")
        except BaseException as problem:  # the others are still tried
            traceback.print_exc()
            answer = {"error": f"{type(problem).__name__}: {problem}"[:300]}
        file.write_text(json.dumps(answer))
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if not file.is_file():
        return {"error": f"the process ended with {os.waitstatus_to_exitcode(status)}"}
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def table() -> str:
    """Return the results of all rows as one Markdown table."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    lines = [
        "| model | trained | parameters | memory | smallest Mac | a step | native on torch | emulated |",
        "|---|---|--:|--:|--:|--:|---|---|",
    ]
    lines += [
        _line(row, way, found)
        for row in ROWS
        for way in WAYS
        if (found := results.get(f"{row.name} / {way}")) is not None
    ]
    return "\n".join(lines) + "\n"


def _line(row: Row, way: str, found: dict[str, Any]) -> str:
    full = found.get("predicted", {})
    if "error" in full or not full:
        cells = ["", f"not predicted: {full.get('error', 'not run')}", "", ""]
    else:
        smallest = f"{full['smallest_gib']} GB" if full["smallest_gib"] else "none"
        cells = [
            _count(full["parameters"]),
            _size(full["needed_bytes"]),
            smallest,
            _seconds(full["seconds"]),
        ]
    native, stage = _native(found.get("releases", {})), _stage(found.get("emulated", {}))
    return f"| {' | '.join([row.name, way, *cells, native, stage])} |"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"


def _seconds(found: list[float | None] | None) -> str:
    if not found or found[0] is None:
        return "unknown"
    expected, low, high = found
    span = f" ({low:.2g} - {high:.2g})" if low is not None and high is not None else ""
    return f"{expected:.2g} s{span}"


def _native(found: dict[str, Any]) -> str:
    """Return the releases on which a step is fully native, and the reason on the newest one on which it is not."""
    if "error" in found or not found:
        return str(found.get("error", "not run"))
    rows = found["releases"]
    good = [torch for torch, one in rows.items() if one["native"]]
    bad = [torch for torch, one in rows.items() if not one["native"]]
    if not bad:
        return "all"
    last = rows[bad[-1]]
    reason = last["stopped"] or "; ".join(
        f"{', '.join(name.removeprefix('aten::') for name in names[:2])} {verdict}"
        for verdict, names in last["other"].items()
    )
    reason = reason or ", ".join(last["findings"])
    return f"{_spans(good, list(rows)) or 'none'}; on {bad[-1]}: {reason}"


def _spans(good: list[str], every: list[str]) -> str:
    """Format releases as spans: `2.4 - 2.7, 2.9`."""
    spans: list[list[str]] = []
    for name in every:
        if name not in good:
            continue
        if spans and every.index(name) == every.index(spans[-1][-1]) + 1:
            spans[-1].append(name)
        else:
            spans.append([name])
    return ", ".join(one[0] if len(one) == 1 else f"{one[0]} - {one[-1]}" for one in spans)


def _stage(found: dict[str, Any]) -> str:
    """Return the checks that do not pass, with their messages; `pass` where all do."""
    if "error" in found or not found:
        return (
            str(found.get("error", "not run")).rpartition("an optimisation step: ")[2].partition(" (at ")[0]
        )
    bad = {name: one for name, one in found.items() if one[0] not in ("pass", "skipped")}
    return "; ".join(f"{name} {status}: {message}" for name, (status, message) in bad.items()) or "pass"


def main() -> int:
    """Add missing results or draw the table, as the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, dest="command")
    running = commands.add_parser("run")
    running.add_argument("--only", action="append", default=[], help="name of a model")
    running.add_argument("--again", action="store_true", help="make anew what is there already")
    commands.add_parser("table")
    arguments = parser.parse_args()
    if arguments.command == "run":
        run(arguments.only, arguments.again)
        return 0
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(f"{head}{BEGIN}{table()}{END}{tail}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
