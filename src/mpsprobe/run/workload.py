"""What is asked of a target: how much of it, and how often."""

from __future__ import annotations

import msgspec

#: Bits of a cached key or value by the name of `--kv-dtype`. 4- and 8-bit caches hold scales beside: transformers'
#: QuantizedCache keeps a 16-bit scale and shift for 64 values.
KV_BITS = {"float32": 32.0, "float16": 16.0, "bfloat16": 16.0, "int8": 8.5, "int4": 4.5}
#: New tokens that a generation is forecast for where nobody says.
NEW_TOKENS = 128
#: Turns of a loop that are run at most; longer ones are carried on along a straight line.
RUN_TURNS, RUN_STEPS = 8, 3


class Workload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The user's wishes; None where the target's own input decides.

    Attributes:
        prompt_tokens: length of the prompt, or of each text.
        new_tokens: to generate.
        batch: prompts, images or clips at once.
        image_size: side of a square image, pixels.
        frames: of a video.
        steps: of a diffusion or flow.
        audio_seconds: of sound.
        kv_dtype: of the key-value cache: a key of `KV_BITS`.
        samples: how many the owner wants in all: the plan that recommendations count.
    """

    prompt_tokens: int | None = None
    new_tokens: int | None = None
    batch: int | None = None
    image_size: int | None = None
    frames: int | None = None
    steps: int | None = None
    audio_seconds: int | None = None
    kv_dtype: str | None = None
    samples: int = 1


class Fed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a run was really fed, read off its input.

    Attributes:
        rows: prompts, images or clips at once.
        tokens: of each text; 0 without one.
        audio_seconds: of each clip; 0 without sound.
        image: height and width of each picture; empty without one.
        batches: of one run: those whose gradients add up in an optimisation step.
    """

    rows: int = 1
    tokens: int = 0
    audio_seconds: float = 0.0
    image: tuple[int, ...] = ()
    batches: int = 1
