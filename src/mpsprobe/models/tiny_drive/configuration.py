"""Configuration of the tiny driving model."""

from __future__ import annotations

from typing import Any

from transformers.configuration_utils import PretrainedConfig
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig, Qwen3VLTextConfig


class TinyDriveConfig(PretrainedConfig):  # type: ignore[misc, unused-ignore]
    """Sizes of the VLM and of the action expert, token ids, and constants of the action space.

    Attributes:
        vlm_config: A `Qwen3VLConfig`.
        expert_config: A `Qwen3VLTextConfig`, whose layers, KV heads and head size must equal the VLM's, because the
            expert attends to the VLM's keys and values layer by layer.
        special_ids: The id of each special token.
        word_ids: The first id, and the one after the last, of the words that a trace may hold.
        trajectory_start: The id of `<i0>`, the first trajectory token.
        future_bins: The number of bins, and so of tokens, for the actions of the future.
        history_bins: The number of bins, and so of tokens, for the steps of the history.
        future_range: The largest action inside the bins, in standard deviations in each direction.
        history_range: The longest step inside the bins, in metres in each direction.
        history_points: The number of points of the history, `time_step` seconds apart.
        future_points: The number of points of the trajectory, `time_step` seconds apart.
        time_step: The time between two points in seconds.
        acceleration: The mean and standard deviation that normalise accelerations, in m/s^2.
        curvature: The mean and standard deviation that normalise curvatures, in 1/m.
        flow_steps: The number of Euler steps of the flow-matching sampler.
    """

    model_type = "tiny_drive"
    sub_configs = {"vlm_config": Qwen3VLConfig, "expert_config": Qwen3VLTextConfig}  # noqa: RUF012

    def __init__(
        self,
        vlm_config: Any = None,
        expert_config: Any = None,
        special_ids: dict[str, int] | None = None,
        word_ids: tuple[int, int] = (0, 0),
        trajectory_start: int = 0,
        future_bins: int = 512,
        history_bins: int = 256,
        future_range: float = 10.0,
        history_range: float = 4.0,
        history_points: int = 16,
        future_points: int = 64,
        time_step: float = 0.1,
        acceleration: tuple[float, float] = (0.0, 1.0),
        curvature: tuple[float, float] = (0.0, 1.0),
        flow_steps: int = 10,
        **kwargs: Any,
    ) -> None:
        # None becomes the defaults, because transformers makes a config without arguments to compare others with
        self.vlm_config = _sub_config(Qwen3VLConfig, vlm_config)
        self.expert_config = _sub_config(Qwen3VLTextConfig, expert_config)
        self.special_ids = special_ids or {}
        self.word_ids: tuple[int, int] = (word_ids[0], word_ids[1])
        self.trajectory_start = trajectory_start
        self.future_bins = future_bins
        self.history_bins = history_bins
        self.future_range = future_range
        self.history_range = history_range
        self.history_points = history_points
        self.future_points = future_points
        self.time_step = time_step
        self.acceleration: tuple[float, float] = (acceleration[0], acceleration[1])
        self.curvature: tuple[float, float] = (curvature[0], curvature[1])
        self.flow_steps = flow_steps
        super().__init__(**kwargs)


def _sub_config(cls: Any, given: Any) -> Any:
    """Return a config of `cls`: `given` itself if it is one, else one made of its values (None: the defaults)."""
    return given if isinstance(given, cls) else cls(**(given or {}))
