"""Make sound, time series and steps of decision processes of the sizes that a transformers config states."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mpsprobe.models.weightless import guessed
from mpsprobe.models.weightless.families import Family

#: The samples of one second of sound in every speech model of transformers.
SAMPLING_RATE = 16_000
#: Parts of a config that describe sound.
_PARTS = (
    "audio_config",
    "encoder_config",
    "speech_config",
    "audio_encoder",
    "encoder",
    "audio_encoder_config",
)
#: The number of frames of a spectrogram whose length the config does not state.
_FRAMES = 200


class SoundInputs:
    """Make the arguments of a forward pass that hold sound; `synthetic.Inputs` makes the others.

    Attributes:
        model_class: A class of transformers.
        config: Its config.
        family: Its family.
        notes: Sentences about decisions that were made for the user.
    """

    model_class: Any
    config: Any
    family: Family
    notes: list[str]

    def _config(self, name: str, default: Any = None) -> Any:
        raise NotImplementedError

    def _sound(self, *names: str) -> Any:
        """Return the first value under any of these names in the config or its parts about sound; else None."""
        parts = [self.config, *(getattr(self.config, name, None) for name in _PARTS)]
        found = (getattr(part, name, None) for part in parts if part is not None for name in names)
        return next((value for value in found if value is not None), None)

    def input_features(self) -> Tensor:
        """Return a spectrogram: `(1, mel bins, frames)` as in Whisper, CLAP's image, or `(1, frames, features)`.

        CLAP's image is `(rows, 1, 1001, mel bins)`.
        """
        bins = self._config("num_mel_bins")
        positions = self._config("max_source_positions")
        if bins is not None and positions is not None and self._config("input_feat_per_channel") is None:
            return ramp(1, bins, 2 * positions)
        if self._sound("spec_size") is not None:  # CLAP: ten seconds as an image of one channel
            return ramp(self.family.rows, 1, 1001, self._sound("num_mel_bins"))
        width = (
            self._config("input_feat_per_channel", 0) * self._config("input_channels", 1)
            or self._config("feature_projection_input_dim")
            or self._sound("input_dim", "num_mel_bins", "feature_size", "input_feat_size", "mel_bins")
            or 80
        )
        if self._sound("num_mel_bins") == width and self._sound("max_source_positions"):
            return ramp(1, width, 2 * self._sound("max_source_positions"))
        self.notes.append(f"Sound: {_FRAMES} frames of {width} features.")
        return ramp(1, _FRAMES, width)

    def input_features_mask(self) -> Tensor:
        """Return a one for each frame of sound: `(rows, frames)`."""
        features = self.input_features()
        frames = features.shape[-1] if features.shape[1] == self._sound("num_mel_bins") else features.shape[1]
        return torch.ones(features.shape[0], frames, dtype=torch.int64)

    def is_longer(self) -> Tensor:
        """Return False for each sound, because none is longer than CLAP's window: `(rows, 1)` bool."""
        return torch.zeros(self.family.rows, 1, dtype=torch.bool)

    def audio_mel(self) -> Tensor:
        """Return Gemma 3n's spectrogram: `(1, frames, bins)`."""
        return ramp(1, _FRAMES, self._sound("input_feat_size") or 128)

    def audio_mel_mask(self) -> Tensor:
        """Return False for each frame, because none of the spectrogram is padding: `(1, frames)` bool."""
        return torch.zeros(1, _FRAMES, dtype=torch.bool)

    def input_values(self) -> Tensor:
        """Return a second of waveform, or a spectrogram `(1, frames, bins)` for configs with a frequency stride.

        The waveform is `(1, 16000)`, or `(1, channels, 16000)` for codecs.
        """
        bins, frames = self._config("num_mel_bins"), self._config("max_length")
        if bins is not None and frames is not None and hasattr(self.config, "frequency_stride"):
            return ramp(1, frames, bins)
        channels = self._config("audio_channels")
        self.notes.append(f"Sound: one second at {SAMPLING_RATE} Hz.")
        shape, _ = guessed.documented(self.model_class, "input_values")
        if channels is None and len(shape) == 3:  # codecs: `(batch_size, 1, time_steps)`
            channels = 1
        return ramp(1, channels, SAMPLING_RATE) if channels else ramp(1, SAMPLING_RATE)

    def decoder_input_values(self) -> Tensor | None:
        """Return SpeechT5's last two groups of frames: `(1, 2 * reduction factor, bins)`; None without bins."""
        bins, group = self._config("num_mel_bins"), self._config("reduction_factor", 1)
        return None if bins is None else ramp(1, 2 * group, bins)

    def speaker_embeddings(self) -> Tensor | None:
        width = self._config("speaker_embedding_dim")
        return ramp(1, width) if isinstance(width, int) and width > 0 else None

    def audio_values(self) -> Tensor:
        """Return TVLT's spectrogram: `(1, channels, frames, bins)`."""
        length, bins = self._config("spectrogram_length", 2048), self._config("frequency_length", 128)
        return ramp(1, self._config("num_audio_channels", 1), length, bins)

    def audio_mask(self) -> Tensor:
        """Return a one for each patch of TVLT's spectrogram, because none is padding: `(1, patches)`."""
        down, across = self._config("audio_patch_size", [16, 16])
        length, bins = self._config("spectrogram_length", 2048), self._config("frequency_length", 128)
        return torch.ones(1, (length // down) * (bins // across), dtype=torch.int64)


def ramp(*shape: int) -> Tensor:
    """Return reproducible values that rise evenly from -1 to 1, in a tensor of the given shape."""
    return torch.linspace(-1, 1, math.prod(shape)).reshape(shape)


class SeriesInputs:
    """Make the arguments of a forward pass that hold time series, states and actions."""

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
        """Return zeros in the shape of `past_values`, which mark no step as padding (TimesFM)."""
        return torch.zeros(self.past_values().shape, dtype=torch.int64)

    def freq(self) -> Tensor:
        """Return TimesFM's index of the frequency, which is 0: `(1, 1)`."""
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
