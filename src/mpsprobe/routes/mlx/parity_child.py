"""Run the MLX side of a parity run in its own process: `python -m mpsprobe.routes.mlx.parity_child JOB.json`.

Importing mlx-lm lowers RLIMIT_NOFILE, importing mlx-vlm registers streams, and one module of mlx-lm ends the
process; the caller must not be affected. One line of JSON is written for each variant as it ends.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any


def main(job_file: Path) -> None:
    """Load each variant strictly, run it on each input, and save its logits."""
    import numpy as np

    job = json.loads(job_file.read_text(encoding="utf-8"))
    mx: Any = importlib.import_module("mlx.core")
    with Path(job["answers"]).open("w", encoding="utf-8") as answers:
        for variant in job["variants"]:
            answer: dict[str, Any] = {"name": variant["name"], "device": str(mx.default_device())}
            try:
                model = _load(job["package"], Path(variant["folder"]))
                for feed, file in job["feeds"].items():
                    with np.load(file) as arrays:
                        inputs = {name: mx.array(arrays[name]) for name in arrays.files}
                    logits = _logits(job["package"], model, inputs)
                    np.save(Path(variant["folder"]) / f"{feed}.npy", np.array(logits.astype(mx.float32)))
            except Exception as problem:  # any error of the library is the answer
                answer["problem"] = f"{type(problem).__name__}: {problem}"
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


def _load(package: str, folder: Path) -> Any:
    if package == "mlx-lm":
        model, _ = importlib.import_module("mlx_lm.utils").load_model(folder, strict=True)
        return model
    return importlib.import_module("mlx_vlm.utils").load_model(folder, strict=True)


def _logits(package: str, model: Any, inputs: dict[str, Any]) -> Any:
    ids = inputs.pop("input_ids")
    if package == "mlx-lm":
        return model(ids)
    inputs.pop("attention_mask", None)  # it is all ones; without it the model makes its own causal mask
    output = model(ids, inputs.pop("pixel_values", None), **inputs)
    return getattr(output, "logits", output)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
