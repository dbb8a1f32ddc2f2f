"""Which parts run under autocast, seen by a driver that only looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from mpsprobe.models import profile
from mpsprobe.models.alpamayo.adapter import AlpamayoAdapter


class _Part(torch.nn.Module):
    def __init__(self, seen: dict[str, bool]) -> None:
        super().__init__()
        self.seen = seen

    def generate(self) -> None:
        self.seen["generate"] = torch.is_autocast_enabled("cpu")

    def sample(self) -> None:
        self.seen["sample"] = torch.is_autocast_enabled("cpu")


class _Driver(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, bool] = {}
        self.vlm = _Part(self.seen)
        self.diffusion = _Part(self.seen)

    def sample_trajectories_from_data_with_vlm_rollout(self, **_: Any) -> dict[str, bool]:
        self.vlm.generate()
        self.diffusion.sample()
        self.seen["action_to_traj"] = torch.is_autocast_enabled("cpu")
        return self.seen


@pytest.mark.parametrize(("autocast", "cast"), [("parts:bfloat16", True), ("bfloat16", False), ("", False)])
def test_the_adapter_casts_generation_and_flow_and_nothing_else(autocast: str, cast: bool) -> None:
    stated = msgspec.structs.replace(profile.load("alpamayo-r1"), autocast=autocast)
    driver = _Driver()
    batch = {"tokenized_data": {}, "ego_history_xyz": torch.zeros(1, 1, 16, 3)}
    seen = AlpamayoAdapter(Path("unused"), stated).infer(driver, batch)
    assert seen == {"generate": cast, "sample": cast, "action_to_traj": False}
    assert "generate" not in vars(driver.vlm)
    assert "sample" not in vars(driver.diffusion)


def test_its_profile_leaves_the_regions_to_the_adapter() -> None:
    assert profile.load("alpamayo-r1").autocast == "parts:bfloat16"
