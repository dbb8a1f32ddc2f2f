#!/usr/bin/env python
"""Predict every model type of the installed transformers from its default config; draw its table in docs/coverage.md.

    python tools/model_types.py run [TYPE ...]     # what is missing, or these; results go to docs/model_types.tsv
    python tools/model_types.py table              # the part of docs/coverage.md between its two marks

Each type is predicted in a process of its own, forked after the imports: seconds are CPU seconds beyond them, the
memory is the peak of that process. Weights are never made: the device has no memory.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import os
import re
import resource
import select
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(os.environ.get("MODEL_TYPES", ROOT / "docs" / "model_types.tsv"))
PAGE = ROOT / "docs" / "coverage.md"
BEGIN, END = "<!-- model types: begin -->", "<!-- model types: end -->"
FIELDS = (
    "transformers",
    "type",
    "class",
    "task",
    "parameters",
    "cpu_s",
    "rss_mb",
    "op_uses",
    "calls",
    "verdict",
    "reason",
)
#: The time limit of a type in seconds of wall time.
LIMIT = int(os.environ.get("MODEL_TYPES_LIMIT", "240"))
TORCH = "2.13"


def types() -> list[str]:
    """Return the model types of the installed transformers."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return list(CONFIG_MAPPING_NAMES)


def class_of(model_type: str) -> tuple[str, str]:
    """Return the class that is predicted for a type, and its task; the class is empty for a type without a model."""
    from transformers.models.auto import modeling_auto

    from mpsprobe.models.weightless.families import FAMILIES

    for family in FAMILIES:
        for table in family.tables:
            named = getattr(modeling_auto, f"MODEL_{table}_MAPPING_NAMES", {}).get(model_type)
            if named and _has_config(name := named if isinstance(named, str) else named[0], model_type):
                return name, family.name
    named = modeling_auto.MODEL_MAPPING_NAMES.get(model_type)
    if named:
        return (named if isinstance(named, str) else named[0]), "model"
    return _part(model_type), "part of a model"


def _has_config(name: str, model_type: str) -> bool:
    """Return whether a class is built from the config of that type; transformers' tables may name another's class."""
    import transformers

    cls = getattr(transformers, name, None)
    config = getattr(getattr(cls, "config_class", None), "model_type", model_type)
    return config in (model_type, "")


def _part(model_type: str) -> str:
    """Return the class in the module of a type that no Auto class lists whose config is the type's; empty for none."""
    import transformers
    from transformers import PreTrainedModel
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES, model_type_to_module_name

    config = CONFIG_MAPPING_NAMES[model_type]
    module = transformers.models
    try:
        module = importlib.import_module(f"transformers.models.{model_type_to_module_name(model_type)}")
        names = [name for name in dir(module) if name.endswith(("Model", "Backbone", "Encoder", "Decoder"))]
        found = [cls for name in names if isinstance(cls := getattr(module, name), type)]
    except (ImportError, RuntimeError, AttributeError):
        return ""
    mine = [
        cls.__name__
        for cls in found
        if issubclass(cls, PreTrainedModel)
        and getattr(cls.config_class, "__name__", "") == config
        and not cls.__name__.endswith("PreTrainedModel")
        and hasattr(transformers, cls.__name__)
    ]
    return min(mine, key=len, default="")


def config_of(model_type: str) -> Any:
    """Return the default config of a type; for a composite type, one made of the default configs of its parts."""
    import transformers
    from transformers import AutoConfig

    unlisted = {
        "musicgen_decoder": "MusicgenDecoderConfig",
        "musicgen_melody_decoder": "MusicgenMelodyDecoderConfig",
    }

    def one(name: str, **values: Any) -> dict[str, Any]:
        made = (
            getattr(transformers, unlisted[name])()
            if name in unlisted
            else AutoConfig.for_model(name, **values)
        )
        return {**made.to_dict(), "model_type": name}

    pairs: dict[str, dict[str, Any]] = {
        "encoder-decoder": {"encoder": "bert", "decoder": "bert"},
        "vision-encoder-decoder": {"encoder": "vit", "decoder": "gpt2"},
        "speech-encoder-decoder": {"encoder": "wav2vec2", "decoder": "gpt2"},
        "vision-text-dual-encoder": {"vision_config": "vit", "text_config": "bert"},
        "musicgen": {"text_encoder": "t5", "audio_encoder": "encodec", "decoder": "musicgen_decoder"},
        "musicgen_melody": {
            "text_encoder": "t5",
            "audio_encoder": "encodec",
            "decoder": "musicgen_melody_decoder",
        },
    }
    if model_type in _CHOICES:
        return AutoConfig.for_model(model_type, **_CHOICES[model_type])
    if model_type in pairs:
        parts = {
            key: one(
                name,
                **(
                    {"is_decoder": True, "add_cross_attention": True}
                    if key == "decoder" and name in ("bert", "gpt2")
                    else {}
                ),
            )
            for key, name in pairs[model_type].items()
        }
        starts = {"decoder_start_token_id": 1, "pad_token_id": 0} if "decoder" in parts else {}
        return AutoConfig.for_model(model_type, **parts, **starts)
    return AutoConfig.for_model(model_type)


#: Values for which a type's config has no default, although every checkpoint states them.
_CHOICES: dict[str, dict[str, Any]] = {
    "autoformer": {"prediction_length": 24},
    "informer": {"prediction_length": 24},
    "time_series_transformer": {"prediction_length": 24},
    "beit": {"out_indices": [3, 5, 7, 11]},
    "data2vec-vision": {"out_indices": [3, 5, 7, 11]},
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32},
    "reformer": {"is_decoder": True},
    "wav2vec2-bert": {"vocab_size": 32},
    "wav2vec2-conformer": {"vocab_size": 32},
    "xmod": {"default_language": "en_XX"},
}


def predicted(model_type: str) -> dict[str, Any]:
    """Predict a model of one type in this process, and return its row of the results."""
    import torch
    import transformers

    from mpsprobe.errors import MpsprobeError
    from mpsprobe.models import profile as profiles
    from mpsprobe.models.adapter import Weights
    from mpsprobe.models.choose import GENERIC
    from mpsprobe.models.weightless import config_only
    from mpsprobe.models.weightless.from_config import Blueprint, prepared
    from mpsprobe.prediction.assemble import predict
    from mpsprobe.prediction.observed import WeightlessTarget
    from mpsprobe.run import Mac

    row: dict[str, Any] = {"transformers": transformers.__version__, "type": model_type}
    name, task = class_of(model_type)
    row |= {"class": name, "task": task}
    if not name:
        return row | {
            "verdict": "not built",
            "reason": "transformers has no model class for it: a config, or a part of another",
        }
    cls = getattr(transformers, name, None)
    if not (isinstance(cls, type) and issubclass(cls, torch.nn.Module)):
        return row | {"verdict": "needs a package", "reason": f"{name} needs a package that is not installed"}
    try:
        config, notes = prepared(config_of(model_type))
    except Exception as problem:
        return row | {"verdict": "not built", "reason": f"its config has no defaults: {_short(problem)}"}
    try:
        adapter, _ = config_only.random_init(
            Blueprint(model_type, cls, config, None, notes), profiles.load(GENERIC), Weights.NONE
        )
        found = predict(WeightlessTarget(model_type, adapter, "auto"), Mac(TORCH, None, None, None, False))
    except MpsprobeError as problem:
        return row | {"verdict": _kind(problem.what), "reason": f"{problem.what} {problem.hint}".strip()}
    made = found.predicted
    assert made is not None
    off: Counter[str] = Counter()
    for use in found.op_uses:
        if use.verdict not in ("native", "composite"):
            off[use.verdict.value] += use.count
    verdict = "stopped" if made.stopped else "native" if found.fully_native else "not native"
    ops = sorted({use.op for use in found.op_uses if use.verdict not in ("native", "composite")})
    kinds = Counter(one.kind for one in made.refusals)
    assumed = " (a value that had to be assumed decided it)" if "assumed" in made.next_step else ""
    reason = (
        f"{made.stopped}{assumed}"
        if made.stopped
        else "; ".join(
            [
                *(f"{count} {verdict}" for verdict, count in off.items()),
                ", ".join(ops[:4]),
                *(f"{kind} refused" for kind in kinds),
            ]
        )
    )
    return row | {
        "parameters": found.target.parameters,
        "op_uses": len(found.op_uses),
        "calls": sum(use.count for use in found.op_uses),
        "verdict": verdict,
        "reason": reason.strip("; "),
    }


def _kind(reason: str) -> str:
    """Return the kind of reason why a type was not predicted, in two words."""
    if re.search(r"requires the [\w.-]+ library|No module named|needs a package", reason):
        return "needs a package"
    if "can't allocate memory" in reason:
        return "host memory"
    return "needs input" if re.search(r"\bneeds? `|requires '", reason) else "not built"


def _short(problem: BaseException) -> str:
    return f"{type(problem).__name__}: {(str(problem).strip().splitlines() or [''])[0]}"[:200]


def measured(model_type: str) -> dict[str, Any]:
    """Predict one type in a forked child; return its row with CPU seconds and peak memory, or why it was stopped."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        before = time.process_time()
        try:
            row = predicted(model_type)
        except BaseException as problem:  # an error of one type must not end the others
            row = {"type": model_type, "verdict": "failed", "reason": _short(problem)}
        used = resource.getrusage(resource.RUSAGE_SELF)
        row |= {"cpu_s": round(time.process_time() - before, 1), "rss_mb": used.ru_maxrss // 1024}
        os.write(write, json.dumps(row).encode())
        os._exit(0)
    os.close(write)
    ready, _, _ = select.select([read], [], [], LIMIT)
    if not ready:
        os.kill(pid, signal.SIGKILL)
    data = b""
    while ready and (part := os.read(read, 65536)):
        data += part
    os.close(read)
    _, status = os.waitpid(pid, 0)
    if data:
        return dict(json.loads(data))
    name, task = class_of(model_type)
    why = f"took more than {LIMIT} s" if not ready else f"its process ended with signal {os.WTERMSIG(status)}"
    return {"type": model_type, "class": name, "task": task, "verdict": "stopped", "reason": why}


def stored() -> list[dict[str, str]]:
    """Return the rows of the results file; empty when there is none."""
    if not RESULTS.is_file():
        return []
    with RESULTS.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def write(rows: list[dict[str, Any]]) -> None:
    """Write the results file, sorted by release and type."""
    rows = sorted(rows, key=lambda row: (str(row["transformers"]), str(row["type"])))
    with RESULTS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, delimiter="\t", lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows({name: " ".join(str(row.get(name, "")).split()) for name in FIELDS} for row in rows)


def run(names: list[str]) -> None:
    """Predict types (the missing ones unless some are named), and store each as it ends."""
    import torch
    import transformers

    import mpsprobe.prediction.assemble  # noqa: F401 - imported once, before the forks

    torch.set_num_threads(1)
    predicted("distilbert")  # imports and compiles before the forks what every type needs
    version = transformers.__version__
    have = {row["type"] for row in stored() if row["transformers"] == version}
    for name in names or [one for one in types() if one not in have]:
        row = measured(name) | {"transformers": version}
        others = [one for one in stored() if (one["transformers"], one["type"]) != (version, name)]
        write([*others, row])
        said = f"{name:32} {row.get('verdict'):12} {row.get('cpu_s', '')!s:>6} s  {row.get('reason', '')[:110]}\n"
        sys.stdout.write(said)
        sys.stdout.flush()


def table() -> str:
    """Return the tables of docs/coverage.md on model types, for each transformers release in the results."""
    rows = stored()
    parts = []
    for version in sorted({row["transformers"] for row in rows}):
        mine = [row for row in rows if row["transformers"] == version]
        counts = Counter(row["verdict"] for row in mine)
        said = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
        parts.append(f"### transformers {version}: {len(mine)} types\n\n{said}.\n")
        parts.append(
            "| type | class | parameters | CPU s | MB | op uses | verdict |\n|---|---|---|---|---|---|---|"
        )
        for row in mine:
            if row["op_uses"]:
                verdict = row["verdict"] if not row["reason"] else f"{row['verdict']}: {_cell(row['reason'])}"
                count = f"{int(row['parameters']) / 1e6:,.0f} M"
                cells = (
                    row["type"],
                    row["class"],
                    count,
                    row["cpu_s"],
                    row["rss_mb"],
                    row["op_uses"],
                    verdict,
                )
                parts.append(f"| {' | '.join(cells)} |")
        rest = [row for row in mine if not row["op_uses"]]
        parts.append("\n| not predicted | class | why |\n|---|---|---|")
        parts += [
            f"| {row['type']} | {row['class']} | {row['verdict']}: {_cell(row['reason'])} |" for row in rest
        ]
        parts.append("")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")[:220]


def main() -> None:
    """Predict types or draw the table, as the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("types", nargs="*")
    given = parser.parse_args()
    if given.what == "run":
        run(given.types)
        return
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "src"))
    main()
