"""Inputs at the size that the user asks for."""

from __future__ import annotations

import pytest
import torch

from mpsprobe.errors import UsageError
from mpsprobe.models.weightless.sizes import fed, sized
from mpsprobe.run.outlook import Workload

TEXT = {"input_ids": torch.arange(64).reshape(2, 32), "attention_mask": torch.ones(2, 32, dtype=torch.int64)}


def test_a_prompt_grows_and_shrinks_and_its_mask_with_it() -> None:
    for length in (512, 8):
        made, _ = sized(TEXT, Workload(prompt_tokens=length))
        assert made["input_ids"].shape == made["attention_mask"].shape == (1, length)
        assert fed(made).tokens == length


def test_rows_are_repeated_in_every_tensor() -> None:
    made, _ = sized({**TEXT, "pixel_values": torch.zeros(1, 3, 8, 8)}, Workload(batch=4))
    assert made["input_ids"].shape[0] == made["pixel_values"].shape[0] == 4
    assert fed(made).rows == 4


def test_a_picture_gets_the_side_that_is_asked_for() -> None:
    batch = {
        "pixel_values": torch.rand(1, 3, 224, 224),
        "pixel_mask": torch.ones(1, 224, 224, dtype=torch.int64),
    }
    made, _ = sized(batch, Workload(image_size=512))
    assert made["pixel_values"].shape == (1, 3, 512, 512)
    assert made["pixel_mask"].shape == (1, 512, 512)
    assert made["pixel_mask"].dtype == torch.int64
    assert fed(made).image == (512, 512)


def test_sound_has_the_seconds_that_are_asked_for() -> None:
    wave, _ = sized({"input_values": torch.zeros(1, 16_000)}, Workload(audio_seconds=7))
    assert wave["input_values"].shape == (1, 7 * 16_000)
    assert fed(wave).audio_seconds == 7
    windows, notes = sized({"input_features": torch.zeros(1, 80, 3000)}, Workload(audio_seconds=65))
    assert windows["input_features"].shape == (3, 80, 3000)  # Whisper hears 30 seconds at once
    assert "3 windows" in notes[0]


@pytest.mark.parametrize(
    ("batch", "wanted", "message"),
    [
        ({"pixel_values": torch.zeros(1, 3, 8, 8)}, Workload(prompt_tokens=5), "takes no text"),
        (TEXT, Workload(image_size=64), "takes no picture"),
        (TEXT, Workload(frames=4), "no video"),
        (TEXT, Workload(audio_seconds=4), "no sound"),
        ({"pixel_values": torch.zeros(64, 1176)}, Workload(image_size=64), "tiles or patches"),
        ({**TEXT, "pixel_values": torch.zeros(64, 1176)}, Workload(prompt_tokens=4), "take 32 tokens"),
    ],
)
def test_a_size_that_the_target_has_no_input_for_is_refused(
    batch: dict[str, torch.Tensor], wanted: Workload, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        sized(batch, wanted)
