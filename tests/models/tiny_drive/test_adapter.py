from typing import Any

import pytest
import torch

from mpsprobe.models.adapter import Outputs
from mpsprobe.models.tiny_drive.adapter import TinyDriveAdapter
from mpsprobe.models.tiny_drive.modeling import TinyDrive


@pytest.fixture(scope="module")
def outputs(adapter: TinyDriveAdapter, model: TinyDrive) -> Outputs:
    with torch.inference_mode():
        return adapter.extract(adapter.infer(model, adapter.prepare(adapter.sample())))


def differences(adapter: TinyDriveAdapter, model: TinyDrive, reference: TinyDrive) -> dict[str, float]:
    found, expected = (adapter.forward(m, adapter.prepare(adapter.sample())) for m in (model, reference))
    assert found.keys() == expected.keys() == adapter.profile.parity.keys()
    return {
        name: float((found[name].double() - wanted).abs().max() / wanted.abs().max())
        for name, wanted in expected.items()
    }


def test_batch_has_the_form_of_the_large_model(adapter: TinyDriveAdapter) -> None:
    batch = adapter.prepare(adapter.sample())
    dtypes = {name: tensor.dtype for name, tensor in batch.items()}
    assert dtypes == {
        "input_ids": torch.int64,
        "attention_mask": torch.int64,
        "pixel_values": torch.float32,
        "image_grid_thw": torch.int64,
        "ego_history_xyz": torch.float32,
        "ego_history_rot": torch.float32,
    }
    patches = 16 * 2 * 4  # images of 32 x 64 pixels in patches of 16
    assert batch["pixel_values"].shape == (patches, 1536)
    assert batch["image_grid_thw"].tolist() == [[1, 2, 4]] * 16


def test_outputs_are_what_the_profile_says(adapter: TinyDriveAdapter, outputs: Outputs) -> None:
    assert outputs["pred_xyz"].shape == (1, 1, 1, 64, 3)
    assert outputs["pred_rot"].shape == (1, 1, 1, 64, 3, 3)
    assert outputs["cot"][0]
    for output in adapter.profile.outputs:
        assert output.name in outputs
        if output.kind == "tensor":
            values = outputs[output.name]
            assert output.min is not None
            assert output.max is not None
            assert output.min <= float(values.min()) <= float(values.max()) <= output.max
    assert adapter.judge(outputs) == []


def test_sound_kernels_are_within_parity(
    adapter: TinyDriveAdapter, model: TinyDrive, reference: TinyDrive
) -> None:
    for name, difference in differences(adapter, model, reference).items():
        assert difference <= adapter.profile.parity[name], name


def _without_bias(original: Any) -> Any:
    return lambda x, weight, _bias=None: original(x, weight)


def _seeing_the_future(original: Any) -> Any:
    return lambda *args, **options: original(*args, **{**options, "is_causal": False})


@pytest.mark.parametrize(
    ("function", "fault"),
    [("linear", _without_bias), ("scaled_dot_product_attention", _seeing_the_future)],
    ids=["macOS 26 drops the bias (pytorch 188438)", "torch 2.10 leaks future tokens (pytorch 195910)"],
)
def test_known_faults_of_mps_are_not(
    adapter: TinyDriveAdapter,
    model: TinyDrive,
    reference: TinyDrive,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    fault: Any,
) -> None:
    batch = adapter.prepare(adapter.sample())
    expected = adapter.forward(reference, batch)
    monkeypatch.setattr(torch.nn.functional, function, fault(getattr(torch.nn.functional, function)))
    found = adapter.forward(model, batch)
    for name in ("logits", "velocity"):
        difference = (found[name].double() - expected[name]).abs().max() / expected[name].abs().max()
        assert float(difference) > 2 * adapter.profile.parity[name], name


def test_judge_sees_rotations_that_are_none(adapter: TinyDriveAdapter, outputs: Outputs) -> None:
    (problem,) = adapter.judge({**outputs, "pred_rot": outputs["pred_rot"] * 0.9})
    assert "no rotations" in problem


def test_judge_sees_jumps(adapter: TinyDriveAdapter, outputs: Outputs) -> None:
    xyz = outputs["pred_xyz"].clone()
    xyz[..., 30:, 0] += 50
    assert any("m/s" in problem for problem in adapter.judge({**outputs, "pred_xyz": xyz}))


def test_judge_sees_a_heading_that_is_not_driven(adapter: TinyDriveAdapter, outputs: Outputs) -> None:
    mirrored = outputs["pred_xyz"] * torch.tensor([-1.0, 1.0, 1.0])
    (problem,) = adapter.judge({**outputs, "pred_xyz": mirrored})
    assert "heading" in problem


def test_trace_that_was_never_closed_is_empty(adapter: TinyDriveAdapter) -> None:
    tokenizer = adapter._processor.tokenizer
    sections = adapter._processor.sections
    assert sections(tokenizer(" slow for the bus")["input_ids"])["cot"] == ""
    tokens = tokenizer(" slow<|cot_end|><|meta_action_start|> stop<|meta_action_end|><|answer_start|> go")
    assert sections(tokens["input_ids"]) == {"cot": "slow", "meta_action": "stop", "answer": ""}
