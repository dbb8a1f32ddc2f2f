"""Configuration of the tiny driving model."""

from __future__ import annotations

from typing import Any

from transformers.configuration_utils import PretrainedConfig
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig, Qwen3VLTextConfig


class TinyDriveConfig(PretrainedConfig):  # type: ignore[misc, unused-ignore]
    """Sizes of the VLM and of the action expert, token ids, and constants of the action space.

    Attributes:
        vlm_config: a `Qwen3VLConfig`.
        expert_config: a `Qwen3VLTextConfig`; layers, KV heads and head size must be the VLM's, because the
            expert attends to the VLM's keys and values layer by layer.
        special_ids: id by special token.
        word_ids: first and one past the last id of the words that a trace may hold.
        trajectory_start: id of `<i0>`.
        future_bins, history_bins: number of trajectory tokens of each tokenizer.
        future_range: the future tokenizer covers +- this many standard deviations.
        history_range: the history tokenizer covers steps of +- this many metres.
        history_points, future_points: points of the trajectories, one each `time_step` seconds.
        acceleration, curvature: mean and standard deviation (m/s^2, 1/m) that normalise actions.
        flow_steps: Euler steps of the flow-matching sampler.
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
        # None becomes the defaults: transformers makes a config without arguments to compare others with
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
    """`given` as a `cls`: it may be one already, its values, or None for the defaults."""
    return given if isinstance(given, cls) else cls(**(given or {}))
