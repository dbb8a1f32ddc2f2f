"""The targets of tools/campaign.py: read from its TOML, and written as folders that `mpsprobe` takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from mpsprobe import toml

FILE = Path(__file__).parent / "campaign_targets.toml"
#: Tasks whose models are published in bfloat16; the others' are in float32.
_HALF = ("causal LM", "MoE", "state space", "image-text-to-text")


class CampaignTarget(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"cls": "class"}):
    """One target.

    Attributes:
        name: in the tables; unique.
        task: what it is for.
        source: where its sizes are from.
        cls: of transformers; or a class path, in the checkout of `repository`.
        pipeline: class of diffusers, in place of `cls`.
        config: what differs from the class's defaults.
        null: keys of the config that are null, which TOML cannot say.
        dtype: of the weights as published; `""`: bfloat16 or float32, by the task.
        options: plain values of the pipeline's constructor.
        parts: library, class and config of each part of a pipeline; `[]` for one that is left out.
        repository: of other people's code, as on GitHub.
        path: folder in its checkout that goes on PYTHONPATH.
        small: what replaces values of `config` where the model is to be small.
        known: of a failure: what it is known to be.
    """

    name: str
    task: str
    source: str
    cls: str = ""
    pipeline: str = ""
    config: dict[str, Any] = {}
    null: list[str] = []
    dtype: str = ""
    options: dict[str, Any] = {}
    parts: dict[str, list[Any]] = {}
    repository: str = ""
    path: str = ""
    small: dict[str, Any] = {}
    known: str = ""

    @property
    def weights_dtype(self) -> str:
        """The dtype of the weights as published."""
        return self.dtype or ("bfloat16" if self.task in _HALF else "float32")

    def model(self, folder: Path, *, small: bool) -> list[str]:
        """Return the arguments of `mpsprobe` for this target, once its folder is written."""
        if self.repository:
            return [self.cls, "--config", str(folder / ("small.json" if small else "config.json"))]
        wishes = ["--dtype", self.weights_dtype] if self.pipeline else []
        return [str(folder), *wishes, *(["--shrink"] if small else [])]

    def write(self, folder: Path) -> None:
        """Write the config into a folder, or those of a pipeline's parts.

        Raises:
            AttributeError: the installed transformers has no such class.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if self.repository:
            _write(folder / "config.json", self.config)
            _write(folder / "small.json", {**self.config, **self.small})
        elif self.pipeline:
            self._write_pipeline(folder)
        else:
            import transformers

            named = {
                "architectures": [self.cls],
                "model_type": getattr(transformers, self.cls).config_class.model_type,
                "dtype": self.weights_dtype,
            }
            _write(folder / "config.json", {**named, **self.config, **dict.fromkeys(self.null)})

    def _write_pipeline(self, folder: Path) -> None:
        index: dict[str, Any] = {"_class_name": self.pipeline, **self.options}
        for name, part in self.parts.items():
            index[name] = part[:2] or [None, None]
            if not part or "tokenizer" in name:
                continue
            library, cls, config = part
            named = {"_class_name": cls} if library == "diffusers" else {"architectures": [cls]}
            file = "scheduler_config.json" if "scheduler" in name else "config.json"
            (folder / name).mkdir(exist_ok=True)
            _write(folder / name / file, {**named, **config})
        _write(folder / "model_index.json", index)


class _Targets(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    target: list[CampaignTarget]


def read(file: Path = FILE) -> list[CampaignTarget]:
    """Return the targets, in order."""
    return toml.load(file, _Targets).target


def _write(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data))
