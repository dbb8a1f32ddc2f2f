"""The default target's repository: config, vocabulary, processor and sharded weights, made once from a seed.

The tokenizer is a byte-level BPE like Qwen's, with merges that are written down instead of learnt: each word (with the
space before it) is built from the left, one character for each merge, so it always becomes one token, and any other
text falls back to bytes.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpsprobe.errors import TargetError
from mpsprobe.models.hub import snapshot
from mpsprobe.models.hub.cache import cache_dir

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer  # type: ignore[import-untyped, unused-ignore]


#: The number of bins of the future tokenizer (acceleration and curvature), whose tokens come first.
FUTURE_BINS = 512
#: The number of bins of the history tokenizer (steps in metres).
HISTORY_BINS = 256

_WORDS = """
    accelerate adapt ahead and approach at away bicycle blocked brake bus car caution change clear close
    construction continue crossing curve cyclist decelerate distance due ego entering follow for from gap
    give go green head hold in intersection into junction keep lane lead left light merge moving narrow
    nudge occluded of oncoming overtake parked pass path pedestrian queue ramp red right road roundabout
    sign signal slow slowing speed stop straight the to traffic truck turn van vehicle wait way with yield
"""
WORDS = tuple(_WORDS.split())

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|traj_history_start|>",
    "<|traj_history|>",
    "<|traj_history_end|>",
    "<|traj_future_start|>",
    "<|traj_future|>",
    "<|traj_future_end|>",
    "<|cot_start|>",
    "<|cot_end|>",
    "<|meta_action_start|>",
    "<|meta_action_end|>",
    "<|answer_start|>",
    "<|answer_end|>",
)

_SPACE = "Ġ"  # how byte-level BPE writes the space


def bytes_as_characters() -> list[str]:
    """Return GPT-2's printable character for each byte, in byte order, as the ByteLevel pre-tokenizer maps it."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    stand_ins = dict(zip((b for b in range(256) if b not in printable), range(256, 512), strict=False))
    return [chr(stand_ins.get(byte, byte)) for byte in range(256)]


def _text_tokens() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return the text tokens' ids and merges; bytes come first, then unfinished words, then whole words."""
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS:
        token = _SPACE
        for character in word:
            merges.setdefault((token, character))
            token += character
    words = [_SPACE + word for word in WORDS]
    unfinished = [left + right for left, right in merges if left + right not in set(words)]
    return {t: i for i, t in enumerate([*bytes_as_characters(), *unfinished, *words])}, list(merges)


_TEXT, _MERGES = _text_tokens()
#: The ids of the whole words, of which a trace consists.
WORD_IDS = range(len(_TEXT) - len(WORDS), len(_TEXT))
#: The id of each special token.
SPECIAL_IDS = {token: len(_TEXT) + i for i, token in enumerate(SPECIAL_TOKENS)}
#: The id of `<i0>`, the first trajectory token.
TRAJECTORY_START = len(_TEXT) + len(SPECIAL_TOKENS)
#: The size of the vocabulary, rounded up to a multiple of 64 as models do for the benefit of matrix kernels.
VOCAB_SIZE = -(-(TRAJECTORY_START + FUTURE_BINS + HISTORY_BINS) // 64) * 64


def build_tokenizer() -> Tokenizer:
    """Build the byte-level BPE tokenizer with special and trajectory tokens that `build` saves as `tokenizer.json`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocab=_TEXT, merges=_MERGES))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = (*SPECIAL_TOKENS, *(f"<i{i}>" for i in range(FUTURE_BINS + HISTORY_BINS)))
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return tokenizer


#: The version of the weights, raised when the code below changes. The folder's name also depends on the config.
RECIPE = 1
SEED = 20251031
_LAYERS = 3  # as many as the vision tower feeds into the text layers (deepstack)
_SHARDS = 2
_PATCH, _MERGE = 16, 2

_ATTENTION = {
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 4096,
    "rope_theta": 5_000_000.0,
    # Qwen3-VL's proportions (24, 20, 20 of a head of 128) at a head of 32
    "rope_scaling": {"rope_type": "default", "mrope_section": [6, 5, 5], "mrope_interleaved": True},
    "vocab_size": VOCAB_SIZE,
}

CONFIG: dict[str, Any] = {
    "architectures": ["TinyDrive"],
    "model_type": "tiny_drive",
    "dtype": "bfloat16",
    "vlm_config": {
        "model_type": "qwen3_vl",
        "image_token_id": SPECIAL_IDS["<|image_pad|>"],
        "video_token_id": SPECIAL_IDS["<|video_pad|>"],
        "vision_start_token_id": SPECIAL_IDS["<|vision_start|>"],
        "vision_end_token_id": SPECIAL_IDS["<|vision_end|>"],
        "text_config": {
            "model_type": "qwen3_vl_text",
            "hidden_size": 128,
            "intermediate_size": 256,
            **_ATTENTION,
        },
        "vision_config": {
            "model_type": "qwen3_vl",
            "depth": 4,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "patch_size": _PATCH,
            "spatial_merge_size": _MERGE,
            "temporal_patch_size": 2,
            "out_hidden_size": 128,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1, 2],
        },
    },
    "expert_config": {
        "model_type": "qwen3_vl_text",
        "hidden_size": 64,
        "intermediate_size": 128,
        **_ATTENTION,
    },
    "special_ids": SPECIAL_IDS,
    "word_ids": [WORD_IDS.start, WORD_IDS.stop],
    "trajectory_start": TRAJECTORY_START,
    "future_bins": FUTURE_BINS,
    "history_bins": HISTORY_BINS,
    "future_range": 10.0,
    "history_range": 4.0,
    "history_points": 16,
    "future_points": 64,
    "time_step": 0.1,
    # means and deviations of Alpamayo-R1's public config
    "acceleration": [0.029027, 0.681043],
    "curvature": [0.0002692, 0.0261483],
    "flow_steps": 10,
}

_GENERATION = {
    "do_sample": False,
    "eos_token_id": SPECIAL_IDS["<|im_end|>"],
    "pad_token_id": SPECIAL_IDS["<|endoftext|>"],
    "use_cache": True,
}
_PREPROCESSOR = {
    "image_processor_type": "Qwen2VLImageProcessor",
    # not as `size`: transformers 4.57.1's processor without torchvision takes the defaults when given one
    "min_pixels": 32 * 64,
    "max_pixels": 32 * 64,
    "patch_size": _PATCH,
    "merge_size": _MERGE,
    "temporal_patch_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
_TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "eos_token": "<|im_end|>",
    "pad_token": "<|endoftext|>",
    "clean_up_tokenization_spaces": False,
    "model_max_length": 4096,
}
_CARD = """# tiny-drive

A driving model in the form of Alpamayo-R1 with random weights, made by mpsprobe to test machines with.
It was never trained: its trajectories and the words of its reasoning trace mean nothing.
"""


def ensure() -> Path:
    """Return the repository's folder in the cache, creating it (about a second) if it is missing or damaged.

    It is safe with several concurrent processes: each builds in its own folder, and a rename puts one in place.

    Raises:
        TargetError: The cache cannot be written.
    """
    folder = cache_dir() / f"tiny-drive-{_digest()}"
    if _usable(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f"{folder.name}.building-", dir=folder.parent))
        try:
            build(building)
            _put_in_place(building, folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    except OSError as problem:
        raise TargetError(
            f"{folder}: the default target cannot be made there: {problem.strerror or problem}.",
            "Set MPSPROBE_CACHE to a folder that can be written.",
        ) from problem
    return folder


def build(folder: Path) -> None:
    """Write the repository's files into the empty `folder`, with the same bytes on every machine."""
    build_tokenizer().save(str(folder / "tokenizer.json"))
    for name, content in (
        ("config.json", CONFIG),
        ("generation_config.json", _GENERATION),
        ("preprocessor_config.json", _PREPROCESSOR),
        ("tokenizer_config.json", _TOKENIZER),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_CARD, encoding="utf-8")
    _write_weights(folder)


def _put_in_place(building: Path, folder: Path) -> None:
    """Rename `building` to `folder`, unless another process has put a usable one there; a damaged one is replaced.

    Raises:
        OSError: The folder cannot be renamed.
    """
    building.chmod(0o755)  # mkdtemp makes it private
    try:
        building.rename(folder)
    except OSError:
        if _usable(folder):
            return
        # a damaged one is there: move it away first, which is as atomic as the rename
        damaged = Path(tempfile.mkdtemp(prefix=f"{folder.name}.damaged-", dir=folder.parent))
        folder.replace(damaged / folder.name)
        shutil.rmtree(damaged, ignore_errors=True)
        building.rename(folder)


def _usable(folder: Path) -> bool:
    try:
        snapshot.inspect(folder)
    except snapshot.SnapshotError:
        return False
    return (folder / "tokenizer.json").is_file() and (folder / "preprocessor_config.json").is_file()


def _digest() -> str:
    """Return a digest of the recipe, so that another config, vocabulary or version gets another folder."""
    recipe = [RECIPE, SEED, WORDS, CONFIG, _GENERATION, _PREPROCESSOR, _TOKENIZER]
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]


def _write_weights(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from mpsprobe.models.tiny_drive.configuration import TinyDriveConfig
    from mpsprobe.models.tiny_drive.modeling import TinyDrive

    with torch.device("meta"):  # only names and shapes are needed
        model = TinyDrive(TinyDriveConfig(**copy.deepcopy(CONFIG)))  # transformers 5 changes nested values
    tensors = {name: _weight(name, tuple(t.shape)) for name, t in sorted(model.state_dict().items())}
    total = sum(tensor.nbytes for tensor in tensors.values())
    shards: list[dict[str, torch.Tensor]] = [{} for _ in range(_SHARDS)]
    weight_map: dict[str, str] = {}
    before = 0
    for name, tensor in tensors.items():
        shard = before * _SHARDS // total
        shards[shard][name] = tensor
        weight_map[name] = f"model-{shard + 1:05}-of-{_SHARDS:05}.safetensors"
        before += tensor.nbytes
    for shard, content in enumerate(shards):
        save_file(content, folder / f"model-{shard + 1:05}-of-{_SHARDS:05}.safetensors", {"format": "pt"})
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / snapshot.INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return one parameter in bfloat16, drawn by its name: ones for norms, zero-mean uniform values for others.

    Matrices have variance 1 / fan-in, so that activations keep their scale; biases and embeddings have fixed
    deviations. The values come from the raw 64-bit stream of PCG64, whose bits NumPy guarantees. A normal distribution
    uses libm, whose last bits differ between platforms.
    """
    import numpy as np
    import torch

    is_norm = len(shape) == 1 and name.endswith("weight")
    if is_norm:
        return torch.ones(shape, dtype=torch.bfloat16)
    if name.endswith("bias"):
        deviation = 0.3  # large, so that a kernel that drops it (pytorch 188438) shows in parity
    elif "embed_tokens" in name:
        deviation = 1.0
    elif "pos_embed" in name:
        deviation = 0.1
    else:
        deviation = 1 / math.sqrt(math.prod(shape[1:]))
    raw = np.random.PCG64([SEED, zlib.crc32(name.encode())]).random_raw(math.prod(shape))
    uniform = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1  # in [-1, 1), variance 1/3
    values = (uniform * (deviation * math.sqrt(3))).astype(np.float32)
    return torch.from_numpy(values).reshape(shape).to(torch.bfloat16)
