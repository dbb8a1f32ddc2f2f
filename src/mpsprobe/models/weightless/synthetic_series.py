"""Make time series and steps of decision processes of the sizes that a config states."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mpsprobe.models.weightless.synthetic_sound import ramp


class SeriesInputs:
    """The arguments of a forward pass that hold time series, states and actions; `synthetic.Inputs` has the others."""

    def _config(self, name: str, default: Any = None) -> Any:
        raise NotImplementedError

    def state(self) -> Tensor:
        """Return the state of a robot for the policy pi0: `(1, size)`."""
        return ramp(1, self._config("max_state_dim", 32))

    @property
    def _past(self) -> int:
        """Return the number of past steps of a time series: the context, plus the longest lag."""
        lags = self._config("lags_sequence", [])
        return int(self._config("context_length", 32) or 32) + max(lags, default=0)

    def past_values(self) -> Tensor:
        """Return a time series: `(1, steps)`, or `(1, steps, channels)` with several channels."""
        channels = self._config("num_input_channels") or self._config("input_size", 1)
        if self._config("num_input_channels") is None and channels == 1:
            return ramp(1, self._past)
        return ramp(1, self._past, channels)

    def past_values_padding(self) -> Tensor:
        """Return zeros, which mark no step of a time series as padding (TimesFM): the shape of `past_values`."""
        return torch.zeros(self.past_values().shape, dtype=torch.int64)

    def freq(self) -> Tensor:
        """Return TimesFM's index of the frequency: `(1, 1)`."""
        return torch.zeros(1, 1, dtype=torch.int64)

    def past_time_features(self) -> Tensor:
        count = self._config("num_time_features", 0) + self._config("num_dynamic_real_features", 0)
        return ramp(1, self._past, count)

    def past_observed_mask(self) -> Tensor:
        return torch.ones(self.past_values().shape)

    def states(self) -> Tensor:
        """Return 20 states of a decision process: `(1, 20, size)`."""
        return ramp(1, 20, self._config("state_dim", 17))

    def actions(self) -> Tensor:
        return ramp(1, 20, self._config("act_dim", 4))

    def rewards(self) -> Tensor:
        return ramp(1, 20, 1)

    def returns_to_go(self) -> Tensor:
        return ramp(1, 20, 1)

    def timesteps(self) -> Tensor:
        return torch.arange(20)[None]
