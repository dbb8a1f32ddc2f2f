"""Faults planted in one layer on one side are found there and nowhere else; sound models raise no alarm."""

from __future__ import annotations

import msgspec
import pytest

from mpsprobe.layers.diverge import diverge
from mpsprobe.layers.result import OUTSIDE, Divergence, Verdict
from mpsprobe.phases.check import LinkFailed
from tests.layers.conftest import MakeJob, no_announcement

DTYPES = ["float32", "bfloat16", "float16"]


def makers(found: Divergence) -> set[str]:
    return {layer.module for layer in found.layers if layer.verdict is Verdict.MAKES}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fault", ["", "rounding"])
def test_a_sound_model_does_not_diverge(planted: MakeJob, dtype: str, fault: str) -> None:
    found = diverge(planted(fault, dtype), no_announcement)
    assert not found.diverges
    assert found.first is None
    assert {layer.verdict for layer in found.layers} == {Verdict.SOUND}
    assert [(stage.stage, stage.compared, stage.calls) for stage in found.stages] == [
        ("forward", 22, 22),
        ("inference", 4 * 22, 4 * 22),
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_third_layer_off_by_a_hundredth_is_named(planted: MakeJob, dtype: str) -> None:
    found = diverge(planted("layer", dtype), no_announcement)
    assert found.diverges
    assert found.first is not None
    assert (found.first.stage, found.first.module, found.first.kind) == ("forward", "blocks.2.down", "Linear")
    assert found.first.verdict is Verdict.MAKES
    assert found.first.judged.error == pytest.approx(1e-2, rel=0.4)
    assert makers(found) == {"blocks.2.down"}
    assert found.layers[0].module == "blocks.2.down"
    assert "aten::addmm" in [use.op for use in found.first.op_uses]


def test_inherited_errors_are_told_from_a_layers_own(planted: MakeJob) -> None:
    found = diverge(planted("layer", "float32"), no_announcement)
    layers = {layer.module: layer for layer in found.layers if layer.stage == "forward"}
    assert layers["blocks.3"].verdict is Verdict.CARRIES
    assert layers["head"].verdict is Verdict.CARRIES
    assert layers["head"].local is not None
    assert not layers["head"].local.diverges
    assert layers["blocks.1"].verdict is Verdict.SOUND
    outputs = {row.name: row for row in found.outputs if row.stage == "forward"}
    assert outputs["logits"].diverges


def test_a_fault_in_the_code_between_two_modules_is_its_owners(planted: MakeJob) -> None:
    found = diverge(planted("glue"), no_announcement)
    assert found.first is not None
    assert (found.first.module, found.first.kind) == ("blocks.2", "Block")
    assert found.first.judged.place == "argument [0] of blocks.2.down"
    assert makers(found) == {"blocks.2"}
    assert {use.op for use in found.first.op_uses} >= {"aten::gelu", "aten::mul.Tensor"}
    assert all("planted.py" in use.source for use in found.first.op_uses)


@pytest.mark.parametrize("dtype", ["bfloat16"])
def test_a_nan_in_one_layer_is_named_and_counted(planted: MakeJob, dtype: str) -> None:
    found = diverge(planted("nan", dtype), no_announcement)
    assert found.first is not None
    assert found.first.module == "blocks.2.up"
    assert found.first.judged.problem == "1 of 384 elements are NaN, 0 in the reference"
    assert makers(found) == {"blocks.2.up"}


@pytest.mark.parametrize("local", [True, False])
def test_a_fault_of_the_second_step_alone_is_found_there(planted: MakeJob, local: bool) -> None:
    found = diverge(planted("step", local=local), no_announcement)
    assert found.first is not None
    assert (found.first.stage, found.first.module) == ("inference", "blocks.2.down")
    assert found.first.judged.call == 1
    assert found.first.verdict is (Verdict.MAKES if local else Verdict.CARRIES)
    forward = [layer for layer in found.layers if layer.stage == "forward"]
    assert {layer.verdict for layer in forward} == {Verdict.SOUND}
    if not local:
        # The third step began from the reference's outcome of the second, so it is sound again.
        assert [stage.forcing for stage in found.stages] == ["free", "steps"]


def test_results_of_a_run_that_feeds_on_itself_are_not_judged(planted: MakeJob) -> None:
    found = diverge(planted("rounding", "bfloat16"), no_announcement)
    rows = {row.name: row for row in found.outputs if row.stage == "inference"}
    assert not rows["x"].same
    assert not rows["x"].judged
    assert not found.diverges
    assert any("Free runs" in note for note in found.notes)


def test_a_part_of_the_stages_can_be_left_out(planted: MakeJob) -> None:
    found = diverge(planted("layer", stages=["forward"], local=False), no_announcement)
    assert [stage.stage for stage in found.stages] == ["forward"]
    assert {layer.stage for layer in found.layers} == {"forward"}
    assert all(layer.local is None for layer in found.layers)
    assert found.first is not None
    assert found.first.module == "blocks.2.down"


def test_what_the_target_raises_is_its_own_failure(planted: MakeJob) -> None:
    with pytest.raises(LinkFailed, match=r"forward on cpu: RuntimeError: planted \(at .*planted.py"):
        diverge(planted("raise"), no_announcement)


def test_code_outside_every_module_has_a_name(planted: MakeJob) -> None:
    found = diverge(planted(), no_announcement)
    assert OUTSIDE in {layer.module for layer in found.layers}


def test_the_document_is_json_and_reads_back(planted: MakeJob) -> None:
    found = diverge(planted("nan"), no_announcement)
    again = msgspec.json.decode(msgspec.json.encode(found), type=Divergence)
    assert again == found
    assert again.subject.device == "cpu"
