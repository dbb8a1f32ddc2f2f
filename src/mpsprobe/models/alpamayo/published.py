"""NVIDIA's published model `nvidia/Alpamayo-R1-10B`: the package of its code, and its config without its weights.

The package `alpamayo_r1` is the target's own code, which mpsprobe does not ship. The config comes from the public
code (github.com/NVlabs/alpamayo at 1cba38c) and the published sizes of the checkpoint. The repository's own
config.json takes precedence wherever it can be fetched. Importing this module does not import torch.
"""

from __future__ import annotations

import copy
import importlib
from typing import Any

from mpsprobe.errors import TargetError

#: The file that marks a folder with the config below, and its text.
MARK = "PUBLISHED.txt"
NOTE = (
    "The config is the one that mpsprobe holds, from the package's public code and the published sizes: that of "
    "the repository was not read."
)
REPO = "nvidia/Alpamayo-R1-10B"
#: The vision-language model that the driving model is based on.
VLM_REPO = "Qwen/Qwen3-VL-8B-Instruct"

#: The expected numbers of parameters and of tensors in the weights.
PARAMETERS = 11_078_526_194
TENSORS = 1166

#: The number of points in a history and in a trajectory, 0.1 s apart (helper.py, load_physical_aiavdataset.py).
HISTORY_POINTS, FUTURE_POINTS = 16, 64
#: The number of tokens of a history in the prompt: three for each point (helper.py: create_message).
HISTORY_TOKENS = 3 * HISTORY_POINTS
#: The smallest and largest number of pixels of an image after resizing (helper.py).
MIN_PIXELS, MAX_PIXELS = 163_840, 196_608

_ACTION_SPACE = {
    "_target_": "alpamayo_r1.action_space.UnicycleAccelCurvatureActionSpace",
    "accel_mean": 0.029027,
    "accel_std": 0.681043,
    "curvature_mean": 2.692e-4,
    "curvature_std": 0.0261483,
    "n_waypoints": FUTURE_POINTS,
    "dt": 0.1,
}

CONFIG: dict[str, Any] = {
    "architectures": ["AlpamayoR1"],
    "model_type": "alpamayo_r1",
    "dtype": "bfloat16",
    "vlm_name_or_path": VLM_REPO,
    "vlm_backend": "qwenvl3",
    "model_dtype": "bfloat16",
    "attn_implementation": "sdpa",
    "add_special_tokens": True,
    "traj_vocab_size": 4000,
    "tokens_per_history_traj": HISTORY_TOKENS,
    "tokens_per_future_traj": 2 * FUTURE_POINTS,
    "min_pixels": MIN_PIXELS,
    "max_pixels": MAX_PIXELS,
    "traj_tokenizer_cfg": {
        "_target_": "alpamayo_r1.action_space.discrete_action_space.DiscreteTrajectoryTokenizer",
        "_recursive_": False,  # its constructor instantiates the action space itself
        "action_space_cfg": _ACTION_SPACE,
        "dims_min": [-10.0, -10.0],
        "dims_max": [10.0, 10.0],
        "num_bins": 3000,
    },
    "hist_traj_tokenizer_cfg": {
        "_target_": "alpamayo_r1.models.delta_tokenizer.DeltaTrajectoryTokenizer",
        "num_bins": 1000,
    },
    "action_space_cfg": _ACTION_SPACE,
    "diffusion_cfg": {
        "_target_": "alpamayo_r1.diffusion.flow_matching.FlowMatching",
        "int_method": "euler",
        "num_inference_steps": 10,
    },
    "action_in_proj_cfg": {
        "_target_": "alpamayo_r1.models.action_in_proj.PerWaypointActionInProjV2",
        "num_enc_layers": 2,
        "hidden_size": 512,
        "num_fourier_feats": 20,
    },
    "action_out_proj_cfg": {"_target_": "torch.nn.Linear"},
    "expert_cfg": {
        "hidden_size": 2048,
        "intermediate_size": 8256,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    "keep_same_dtype": True,
    "expert_non_causal_attention": True,
}

#: The config.json of the vision-language model, without defaults of its class.
VLM_CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "model_type": "qwen3_vl",
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "tie_word_embeddings": False,
    "text_config": {
        "model_type": "qwen3_vl_text",
        "dtype": "bfloat16",
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 262_144,
        "rms_norm_eps": 1e-6,
        "rope_theta": 5_000_000,
        "rope_scaling": {
            "rope_type": "default",
            "mrope_interleaved": True,
            "mrope_section": [24, 20, 20],
        },
        "vocab_size": 151_936,
    },
    "vision_config": {
        "model_type": "qwen3_vl",
        "depth": 27,
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_heads": 16,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [8, 16, 24],
        "out_hidden_size": 4096,
    },
}


def config() -> dict[str, Any]:
    """Return a copy of the driving model's config.json."""
    return copy.deepcopy(CONFIG)


def vlm_config() -> dict[str, Any]:
    """Return a copy of the vision-language model's config.json."""
    return copy.deepcopy(VLM_CONFIG)


NAME = "alpamayo_r1"
#: Packages that its inference imports besides torch, transformers and NumPy, by import name. The rest of its stated
#: requirements (flash-attn, vllm, deepspeed, cosmos-rl) is for training.
NEEDED = {
    "scipy": "scipy",
    "einops": "einops",
    "hydra": "hydra-core",
    "colorlog": "colorlog",
    "PIL": "pillow",
}
_FETCH = "git clone https://github.com/NVlabs/alpamayo, and put its src folder on PYTHONPATH"


def model_class() -> Any:
    """Return `AlpamayoR1`, a `PreTrainedModel`.

    Raises:
        TargetError: The package, or one that it imports, is not installed or cannot be imported.
    """
    return imported("models.alpamayo_r1").AlpamayoR1


def imported(module: str) -> Any:
    """Import a module of `alpamayo_r1` by its name inside the package, and return it.

    Raises:
        TargetError: The package, or one that it imports, is not installed or cannot be imported.
    """
    try:
        return importlib.import_module(f"{NAME}.{module}")
    except ImportError as problem:
        missing = (problem.name or "").partition(".")[0]
        if missing == NAME:
            raise TargetError(f"The package {NAME} is not installed.", f"{_FETCH}.") from problem
        wanted = NEEDED.get(missing)
        raise TargetError(
            f"{NAME} cannot be imported: {problem}.",
            f"pip install {wanted}" if wanted else f"Install what provides {missing or 'it'}.",
        ) from problem
