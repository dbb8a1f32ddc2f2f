"""Read the targets of tools/campaign.py from its TOML, and write them as folders for `mpsprobe`."""

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
    """A public model of the campaign, and the config from which it is made without its weights.

    Attributes:
        name: A unique name, for the tables.
        task: The task of the model.
        source: Where its sizes come from.
        cls: A class of transformers, or a class path in the checkout of `repository`.
        pipeline: A class of diffusers, instead of `cls`.
        config: The values that differ from the class's defaults.
        null: The keys of the config that are null, which TOML cannot express.
        dtype: The dtype of the published weights; `""` for bfloat16 or float32, depending on the task.
        options: The plain values of the pipeline's constructor.
        parts: Library, class and config of each part of a pipeline; `[]` for an omitted one.
        repository: The GitHub repository of third-party code.
        path: The folder in its checkout to put on PYTHONPATH.
        small: The values of `config` for a small model.
        known: The explanation of a known failure.
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
        """Return the dtype in which the owner published the weights."""
        return self.dtype or ("bfloat16" if self.task in _HALF else "float32")

    def model(self, folder: Path, *, small: bool) -> list[str]:
        """Return the arguments of `mpsprobe` that name this target in a folder that `write` has filled."""
        if self.repository:
            return [self.cls, "--config", str(folder / ("small.json" if small else "config.json"))]
        wishes = ["--dtype", self.weights_dtype] if self.pipeline else []
        return [str(folder), *wishes, *(["--shrink"] if small else [])]

    def write(self, folder: Path) -> None:
        """Write the config into a folder, or those of a pipeline's parts.

        Raises:
            AttributeError: The installed transformers has no such class.
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
    """Return the targets of the campaign's file, in its order."""
    return toml.load(file, _Targets).target


def _write(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data))
