"""PEFT adapters as targets: small weights for a base model, which is built and judged instead."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mpsprobe import toml
from mpsprobe.errors import TargetError
from mpsprobe.knowledge.quantisation import Quantised

CONFIG = "adapter_config.json"
#: What merging into a quantised base raises, by method (peft 0.21.2, tuners/lora/model.py; layers without `merge`).
_UNMERGED = {
    "gptq": "ValueError: Cannot merge LORA layers when the model is gptq quantized",
    "awq": "NotImplementedError",
    "aqlm": "NotImplementedError",
}


@dataclass(frozen=True)
class PeftAdapter:
    """A PEFT adapter whose folder holds no model of its own.

    Attributes:
        folder: The path of the folder.
        base: The base model as the adapter names it: a repo id or a folder.
        kind: The kind of adapter, such as `"LORA"`.
        rank: The rank of a LoRA; None for other kinds.
    """

    folder: Path
    base: str
    kind: str
    rank: int | None

    @property
    def base_folder(self) -> Path | None:
        """Return the base model's folder, if its name is a local folder with a config; else None."""
        for path in (Path(self.base).expanduser(), self.folder / self.base):
            if (path / "config.json").is_file():
                return path.resolve()
        return None

    @property
    def title(self) -> str:
        """Describe the adapter in a few words: `"PEFT adapter (LORA, rank 8) of owner/name"`."""
        rank = f", rank {self.rank}" if self.rank is not None else ""
        return f"PEFT adapter ({self.kind}{rank}) of {self.base}"

    @property
    def merge(self) -> str:
        """Return the advice to merge base and adapter into one model, with the lines of Python that do it."""
        return (
            f"Merge it on the CPU first: model = AutoPeftModelForCausalLM.from_pretrained({str(self.folder)!r}); "
            "model.merge_and_unload().save_pretrained(FOLDER) (pip install peft); then mpsprobe run FOLDER."
        )

    def note(self, base: Quantised | None = None) -> str:
        """Explain that the base model was judged instead of the adapter, and how to merge the two.

        Args:
            base: How the base model is quantised; None for plain weights.
        """
        why = "the base model is judged, since merging an adapter leaves its ops as they are."
        if base is None:
            return f"{self.title}: {why} {self.merge}"
        raises = _UNMERGED.get(base.method.id if base.method is not None else "")
        said = (
            f"raises {raises}" if raises else "rounds the sum to the bits of the base, where peft can do it"
        )
        return (
            f"{self.title}: {why} Merging into a base of {base.title} {said}: load the original model of full "
            "precision with PeftModel.from_pretrained on the CPU, and merge there."
        )


def read(folder: Path) -> PeftAdapter | None:
    """Return the adapter of a folder without a model of its own; None for any other folder.

    Raises:
        TargetError: Its `adapter_config.json` is damaged, or names no base model.
    """
    path = folder / CONFIG
    if (folder / "config.json").is_file() or not path.is_file():
        return None
    stated = toml.json_object(path, TargetError, "Download it again.")
    base = stated.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise TargetError(
            f"{path}: names no base model.", "Ask for the base model itself: mpsprobe predict BASE."
        )
    rank = stated.get("r")
    return PeftAdapter(
        folder, base, str(stated.get("peft_type", "PEFT")), rank if isinstance(rank, int) else None
    )
