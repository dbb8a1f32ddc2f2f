"""The real class, where its package is installed, and what is said where it is not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mpsprobe.errors import TargetError
from mpsprobe.models import choose, profile
from mpsprobe.models.adapter import Weights
from mpsprobe.models.alpamayo import published, random_weights
from mpsprobe.models.alpamayo.adapter import AlpamayoAdapter
from mpsprobe.models.weightless import config_only
from tests.models.alpamayo.conftest import needs_package

pytestmark = [
    pytest.mark.own_process,
    pytest.mark.filterwarnings("ignore"),
]  # those of transformers and of the target's own code


def _adapter(folder: Path, **sample: int) -> AlpamayoAdapter:
    import msgspec

    stated = profile.load("alpamayo-r1")
    stated = msgspec.structs.replace(stated, sample={**stated.sample, **sample})
    adapter = choose.make_adapter(stated, folder)
    assert isinstance(adapter, AlpamayoAdapter)
    adapter.weights = Weights.RANDOM
    return adapter


def test_its_profile_is_found_by_repo_and_by_architecture(folder: Path) -> None:
    named = choose.for_repo("NVIDIA/Alpamayo-R1-10B")
    assert named is not None
    assert named.name == "alpamayo-r1"
    assert choose.for_config(folder).name == "alpamayo-r1"


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == published.NAME]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, published.NAME, None)
    with pytest.raises(TargetError) as raised:
        published.model_class()
    assert raised.value.what == "The package alpamayo_r1 is not installed."
    assert "github.com/NVlabs/alpamayo" in raised.value.hint


@needs_package
def test_a_missing_import_is_named_as_pip_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == published.NAME]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "hydra", None)
    with pytest.raises(TargetError) as raised:
        published.model_class()
    assert raised.value.hint == "pip install hydra-core"


@needs_package
@pytest.mark.slow
def test_the_prompt_has_the_published_lengths(folder: Path) -> None:
    adapter = _adapter(folder)
    batch = adapter.prepare(adapter.sample())
    tokens = batch["tokenized_data"]
    assert int((tokens["input_ids"] == published.VLM_CONFIG["image_token_id"]).sum()) == 2880
    assert tokens["pixel_values"].shape == (11520, 1536)
    assert tokens["image_grid_thw"].tolist() == [[1, 20, 36]] * 16
    assert abs(tokens["input_ids"].shape[1] - 3009) <= 5  # words of the stand-in are not Qwen's
    assert batch["ego_history_xyz"].shape == (1, 1, 16, 3)


@needs_package
@pytest.mark.slow
def test_what_nobody_looks_at_has_the_form_of_what_is_processed(folder: Path) -> None:
    batches = []
    for weights in (Weights.NONE, Weights.RANDOM):
        adapter = AlpamayoAdapter(folder, profile.load("alpamayo-r1"))
        adapter.profile.sample.update(frames=2)
        adapter.weights = weights
        batch = adapter.prepare(adapter.sample())
        tokens = batch.pop("tokenized_data")
        batches.append({name: (one.shape, one.dtype) for name, one in {**batch, **tokens}.items()})
        ids, grids = tokens["input_ids"].tolist(), tokens["image_grid_thw"].tolist()
        batches[-1] |= {"ids": ids, "grids": grids}
    assert batches[0] == batches[1]


@needs_package
@pytest.mark.slow
def test_config_batch_and_model_share_one_processor(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoProcessor

    made: list[Any] = []
    original = AutoProcessor.from_pretrained

    def counted(*args: Any, **options: Any) -> Any:
        made.append(original(*args, **options))
        return made[-1]

    monkeypatch.setattr(AutoProcessor, "from_pretrained", counted)
    adapter = AlpamayoAdapter(folder, profile.load("alpamayo-r1"))
    adapter.weights = Weights.NONE
    adapter.prepare(adapter.sample())
    model: Any = adapter.load(torch.device("meta"), "bfloat16")
    assert [model.processor] == made
    assert len(model.tokenizer) == adapter.config().vocab_size
    assert published.imported("models.base_model").AutoProcessor is AutoProcessor


@needs_package
@pytest.mark.slow
def test_a_prediction_has_the_published_size(folder: Path) -> None:
    from mpsprobe.prediction.observed import WeightlessTarget, observe
    from mpsprobe.run import Mac

    class Unused(AlpamayoAdapter):
        def infer(self, model: torch.nn.Module, batch: Any) -> Any:
            sizes.update(tensors=len(model.state_dict()))
            return super().infer(model, batch)

    sizes: dict[str, int] = {}
    adapter = Unused(folder, profile.load("alpamayo-r1"))
    adapter.weights = Weights.NONE
    recording = observe(
        WeightlessTarget("alpamayo", adapter, "bfloat16"), Mac("2.13", None, None, None, False)
    )
    assert recording.stopped == ""
    assert recording.parameters == published.PARAMETERS
    assert recording.dtypes == {"bfloat16": published.PARAMETERS}
    assert sizes == {"tensors": published.TENSORS}


@needs_package
@pytest.mark.slow
def test_trajectory_and_trace_come_out_on_the_cpu(tiny: Path) -> None:
    adapter = _adapter(tiny, frames=1)
    model = adapter.load(torch.device("cpu"), "bfloat16")
    sample = adapter.sample()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        batch = adapter.prepare(sample)
        outputs = adapter.extract(adapter.infer(model, batch))
        again = adapter.extract(adapter.infer(model, batch))
    assert outputs["pred_xyz"].shape == (1, 1, 1, 64, 3)
    assert outputs["pred_rot"].shape == (1, 1, 1, 64, 3, 3)
    assert outputs["cot"] == [random_weights.TRACE]
    assert adapter.judge(outputs) == []
    assert torch.equal(outputs["pred_xyz"], again["pred_xyz"])


@needs_package
@pytest.mark.slow
def test_random_weights_do_not_depend_on_the_dtype(tiny: Path) -> None:
    half = _adapter(tiny).load(torch.device("cpu"), "bfloat16")
    full = _adapter(tiny).load(torch.device("cpu"), "float32")
    assert {parameter.dtype for parameter in full.parameters()} == {torch.float32}
    for (name, one), other in zip(half.named_parameters(), full.parameters(), strict=True):
        assert torch.equal(one.float(), other), name


@needs_package
def test_shrinking_says_what_it_changed(folder: Path) -> None:
    adapter = _adapter(folder)
    assert "3 layers" in adapter.shrink()[0]
    config = adapter.config()
    assert config.vocab_size == 155_697  # of the checkpoint's embedding
    assert adapter.sample()["image_frames"].shape == (4, 1, 3, 1080, 1920)


@needs_package
@pytest.mark.slow
def test_its_size_is_found_without_memory(folder: Path) -> None:
    size = config_only.size(_adapter(folder), "bfloat16")
    assert size is not None
    assert size.parameters == published.PARAMETERS
