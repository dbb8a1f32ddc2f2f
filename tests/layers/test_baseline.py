"""A baseline travels: written here, read there, and refused where it does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mpsprobe.errors import DataError, UsageError
from mpsprobe.layers import baseline as module
from mpsprobe.layers.capture import distance, sketch
from mpsprobe.layers.criterion import Criterion, Noise
from mpsprobe.layers.diverge import diverge, write_baseline
from mpsprobe.layers.matching import weights_digest
from mpsprobe.layers.result import Verdict
from mpsprobe.layers.supervised import Job
from mpsprobe.models.hub.snapshot import inspect
from mpsprobe.options import Settings
from tests.layers import planted as model
from tests.layers.conftest import MakeJob, no_announcement


@pytest.fixture
def written(planted: MakeJob, tmp_path: Path):  # type: ignore[no-untyped-def]
    def make(dtype: str = "float32") -> str:
        path = tmp_path / f"{dtype}.safetensors"
        write_baseline(planted("", dtype, output=str(path)), no_announcement)
        return str(path)

    return make


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_round_trip_on_the_same_cpu_is_equal(planted: MakeJob, written, dtype: str) -> None:  # type: ignore[no-untyped-def]
    found = diverge(planted("", dtype, against=written(dtype)), no_announcement)
    assert not found.diverges
    assert found.first is None
    judged = [layer.accumulated for layer in found.layers if layer.accumulated is not None]
    assert len(judged) == 2 * 22
    assert {one.error for one in judged} == {0.0}
    assert all(row.same for row in found.outputs)
    assert [stage.compared for stage in found.stages] == [22, 4 * 22]
    assert found.reference.dtype == dtype


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_fault_is_found_against_a_baseline(planted: MakeJob, written, dtype: str, local: bool) -> None:  # type: ignore[no-untyped-def]
    found = diverge(planted("glue", dtype, against=written(dtype), local=local), no_announcement)
    assert found.first is not None
    # Without a look at each module's own error, the first output that is off is the module after the fault.
    assert found.first.module == ("blocks.2" if local else "blocks.2.down")
    assert found.first.verdict is (Verdict.MAKES if local else Verdict.CARRIES)


def test_a_fault_of_the_second_step_is_found_against_a_baseline(planted: MakeJob, written) -> None:  # type: ignore[no-untyped-def]
    found = diverge(planted("step", against=written(), local=False), no_announcement)
    assert found.first is not None
    assert (found.first.stage, found.first.module, found.first.judged.call) == (
        "inference",
        "blocks.2.down",
        1,
    )
    later = [c for c in found.layers if c.stage == "forward"]
    assert all(layer.verdict is Verdict.SOUND for layer in later)


def test_another_dtype_takes_the_baselines(planted: MakeJob, written) -> None:  # type: ignore[no-untyped-def]
    """The profile says bfloat16, the baseline was made in float32: that is what is run here too."""
    found = diverge(planted("", "bfloat16", against=written("float32")), no_announcement)
    assert found.subject.dtype == "float32"
    assert not found.diverges
    job = planted(against=written("float32"))
    job = msgspec.structs.replace(job, settings=job.settings.replace(dtype="bfloat16"))
    with pytest.raises(UsageError, match="the baseline is of a run in float32"):
        diverge(job, no_announcement)


@pytest.mark.parametrize(("same_code", "diverges"), [(True, True), (False, False)])
def test_another_shape_is_a_fault_within_one_release(same_code: bool, diverges: bool) -> None:
    """transformers 5 gives Qwen3-VL's position embedding its indices transposed: seen against an H200's file."""
    judged = Criterion(torch.float32, has_noise=True, same_code=same_code).judge(
        distance(sketch(torch.ones(2, 3)), sketch(torch.ones(3, 2))), 6, ("m", ""), Noise(), call=0, place=""
    )
    assert judged.diverges is diverges
    assert judged.problem


def test_other_weights_and_other_samples_are_refused(planted: MakeJob, written) -> None:  # type: ignore[no-untyped-def]
    path = written()
    with pytest.raises(UsageError, match="this baseline is of other weights"):
        diverge(planted(builder="build_other", against=path), no_announcement)
    with pytest.raises(UsageError, match="another sample: x has other values"):
        diverge(planted(seed=4, against=path), no_announcement)


def test_random_weights_are_known_by_their_values(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "vocab_size": 64}
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 4, **sizes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    path = str(tmp_path / "base.safetensors")
    job = Job(settings=Settings(model=str(tmp_path), device="cpu", random_init=True), stages=["forward"])
    write_baseline(msgspec.structs.replace(job, output=path), no_announcement)
    assert not diverge(msgspec.structs.replace(job, against=path), no_announcement).diverges
    with pytest.raises(UsageError, match="this baseline is of other weights"):
        diverge(
            msgspec.structs.replace(job, against=path, settings=job.settings.replace(shrink=True)),
            no_announcement,
        )


def test_the_file_says_what_it_is_of_and_holds_no_weights(written) -> None:  # type: ignore[no-untyped-def]
    path = Path(written("bfloat16"))
    info = module.read_info(path)
    assert (info.target, info.asked, info.side.device) == ("planted", "bfloat16", "cpu")
    assert info.side.torch.startswith(torch.__version__.split("+")[0])
    assert info.weights == weights_digest(inspect(model.build()))
    assert "float32 on the CPU" in info.noise
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        assert file.get_tensor("batch/.x").shape == (6, model.WIDTH)
    assert {name.split("/")[0] for name in names} == {"batch", "forward", "inference"}
    steps = [name for name in names if "/step/" in name]
    assert len(steps) == model.STEPS * 2, "hidden and logits of each step"


def test_weights_are_known_by_content_however_they_are_cut(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(3), "b": torch.arange(4).to(torch.bfloat16)}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    save_file(tensors, whole / "model.safetensors")
    for name, tensor in tensors.items():
        save_file({name: tensor}, cut / f"{name}.safetensors")
    assert weights_digest(inspect(whole)) == weights_digest(inspect(cut))
    save_file({**tensors, "a": torch.tensor([1.0, 1.0, 1.0 + 2**-23])}, whole / "model.safetensors")
    assert weights_digest(inspect(whole)) != weights_digest(inspect(cut))


def test_files_that_are_none_are_refused(tmp_path: Path, written) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "x.safetensors"
    with pytest.raises(DataError, match="no such file"):
        module.load(path)
    path.write_bytes(b"not safetensors at all")
    with pytest.raises(DataError, match="not a baseline"):
        module.load(path)
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(DataError, match="no baseline of mpsprobe's"):
        module.load(path)
    save_file({"a": torch.ones(1)}, path, {"mpsprobe-baseline": '{"form": 99}'})
    with pytest.raises(DataError, match="form 99"):
        module.load(path)
    torn = Path(written()).read_bytes()
    path.write_bytes(torn[: len(torn) // 2])
    with pytest.raises(DataError):
        module.load(path)


def test_outputs_too_large_to_keep_are_told(
    planted: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpsprobe.layers.capture.STEP_BYTES", 3000)
    path = tmp_path / "b.safetensors"
    answer = write_baseline(planted(output=str(path)), no_announcement)
    assert any("too large to keep" in note for note in answer.notes)
    found = diverge(planted(against=str(path), local=False), no_announcement)
    assert not found.diverges
    assert {stage.stage: stage.unforced > 0 for stage in found.stages} == {
        "forward": False,
        "inference": True,
    }
