"""Repositories by their id, over real HTTP: whose code runs, what is fetched, and what is said when it is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from mpsprobe.run import Run
from tests.cli.test_run import mpsprobe
from tests.support.hub_server import Repository, serve

#: The hub's client reads its endpoint at import: one child makes all the calls of a test.
_CALLS = """
import json, sys
from click.testing import CliRunner
from mpsprobe.cli import cli
from mpsprobe.errors import MpsprobeError
for arguments in json.load(sys.stdin):
    answer = CliRunner().invoke(cli, arguments)
    problem = answer.exception
    if isinstance(problem, MpsprobeError):
        print(json.dumps([problem.exit_code, str(problem)]))
    else:
        assert problem is None or isinstance(problem, SystemExit), problem
        print(json.dumps([answer.exit_code, answer.output]))
"""
_MODELING = """
import torch
from transformers import PreTrainedModel
from .configuration_own import OwnConfig
from .layers import Layer

class OwnModel(PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = torch.nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = torch.nn.ModuleList([Layer(config.hidden_size) for _ in range(config.num_hidden_layers)])
        self.post_init()

    def forward(self, input_ids):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x)
        return {"out": x}
"""
_CONFIGURATION = """
from transformers import PretrainedConfig

class OwnConfig(PretrainedConfig):
    model_type = "own"

    def __init__(self, vocab_size=64, hidden_size=16, num_hidden_layers=4, **kwargs):
        self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab_size, hidden_size, num_hidden_layers
        super().__init__(**kwargs)
"""
_LAYERS = """
import torch

class Layer(torch.nn.Linear):
    def __init__(self, width):
        super().__init__(width, width)
"""
_CODE = {
    "modeling_own.py": _MODELING.encode(),
    "configuration_own.py": _CONFIGURATION.encode(),
    "layers.py": _LAYERS.encode(),
}


def _config(where: str = "", **more: Any) -> dict[str, bytes]:
    table = {
        "AutoConfig": f"{where}configuration_own.OwnConfig",
        "AutoModel": f"{where}modeling_own.OwnModel",
    }
    config = {"architectures": ["OwnModel"], "model_type": "own", "auto_map": table, **more}
    return {"config.json": json.dumps(config).encode(), "model.safetensors": b"must not be asked for"}


def _environment(url: str, home: Path) -> dict[str, str]:
    return {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }


def _calls(url: str, folder: Path, *calls: list[str]) -> list[tuple[int, str]]:
    """Exit code and output, or error, of each call of the command line."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _CALLS],
        input=json.dumps(calls),
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            **_environment(url, folder / "hf"),
        },
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines() if line.startswith("[")]


def test_code_runs_only_when_trusted_wherever_it_lies(tmp_path: Path) -> None:
    repositories = {
        "org/own": Repository({**_config(), **_CODE}),
        "org/code": Repository(_CODE),
        "org/pointing": Repository(_config("org/code--")),
    }
    # transformers takes a folder of the working directory for the repository of that name
    shadow = tmp_path / "org" / "code"
    shadow.mkdir(parents=True)
    for name in _CODE:
        (shadow / name).write_text("raise SystemExit('not what was told of')")
    with serve(repositories) as hub:
        own, trusted, pointing, followed = _calls(
            hub.url,
            tmp_path,
            ["predict", "org/own"],
            ["predict", "org/own", "--trust-remote-code"],
            ["predict", "org/pointing"],
            ["predict", "org/pointing", "--trust-remote-code"],
        )
    for code, told in (own, pointing):
        assert code == 3
        assert "OwnModel is code of the repository" in told
        assert "\n" not in told
        assert all(name in told for name in _CODE)
    assert "repository org/code, which is not run unasked" in pointing[1]
    for code, told in (trusted, followed):
        assert code == 0, told
        lines = told.splitlines()
        assert sorted(Path(line.split()[1]).name for line in lines[:3]) == sorted(_CODE)
        assert all(line.startswith("runs ") for line in lines[:3])
        assert lines[3].startswith("All ")  # the answer comes first
        assert any(line.startswith("OwnModel (org/") for line in lines)
    assert not any("safetensors" in path for _, path, _ in hub.requests)


@pytest.mark.slow
def test_a_run_of_trusted_code_says_what_runs_and_shrinks_it(tmp_path: Path) -> None:
    arguments = (
        "org/pointing",
        "--random-init",
        "--shrink",
        "--device",
        "emulated",
        "--phase",
        "3",
        "--phase",
        "6",
    )
    repositories = {"org/code": Repository(_CODE), "org/pointing": Repository(_config("org/code--"))}
    with serve(repositories) as hub:
        environment = _environment(hub.url, tmp_path / "hf")
        refused = mpsprobe("run", *arguments, cwd=tmp_path, **environment)
        trusted = mpsprobe("run", *arguments, "--trust-remote-code", cwd=tmp_path, **environment)
    assert refused.returncode == 1
    assert "modeling_own.py" in refused.stdout
    assert trusted.returncode == 0, trusted.stdout
    assert trusted.stdout.index("modeling_own.py") < trusted.stdout.index("phase 3")
    run = Run.load(tmp_path / "reports" / "latest" / "run.json")
    assert run.target.architecture == "OwnModel"
    assert any("num_hidden_layers 4 -> 2" in limit for limit in run.limits)
    assert not any("safetensors" in path for _, path, _ in hub.requests)


def test_what_is_broken_is_one_line(tmp_path: Path) -> None:
    outside = tmp_path / "outside.py"
    outside.write_text("raise SystemExit('ran')")

    def mapped(text: str) -> Repository:
        table = {"AutoConfig": "configuration_own.OwnConfig", "AutoModel": text}
        return Repository({**_config(auto_map=table), **_CODE})

    broken = {
        "org/no-layers": (Repository({**_config(), **_CODE}), "its code is not complete: no layers.py"),
        "org/nowhere": (Repository(_config("no/where--")), "cannot be obtained. no/where: the hub answers 401"),
        "org/gated-code": (Repository(_config("org/gated--")), "cannot be obtained. org/gated, configuration_own.py"),
        "org/gated": (Repository({**_config(), **_CODE}, gated=True),
                      "the repository is gated, and no token was found"),
        "org/no-file": (Repository(_config("org/empty--")), "not complete: no configuration_own.py of org/empty"),
        "org/empty": (Repository({}), "org/empty: has no config.json"),
        "org/up": (mapped("../outside.OwnModel"), "no class in a file of a repository"),
        "org/absolute": (mapped(f"{outside.with_suffix('')}.OwnModel"), "no class in a file of a repository"),
        "org/brace": (Repository({"config.json": b"{"}), "not valid JSON"),
        "org/list": (Repository({"config.json": b"[]"}), "expected a JSON object"),
    }  # fmt: skip
    del broken["org/no-layers"][0].files["layers.py"]
    asked = [["predict", name, *trust] for name in broken for trust in ([], ["--trust-remote-code"])]
    asked += [["predict", "org/no-layers", "--revision", "nope"], ["predict", "org/none"]]
    says = [text for _, text in broken.values() for _ in range(2)]
    says += ["there is no revision nope", "org/none: the hub answers 401: no such model"]
    with serve({name: repository for name, (repository, _) in broken.items()}) as hub:
        answers = _calls(hub.url, tmp_path, *asked)
    for call, (code, told), text in zip(asked, answers, says, strict=True):
        assert code in (2, 3), (call, told)
        assert text in told, call
        assert "\n" not in told, call


_PARTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "unet": ("diffusers", "UNet2DConditionModel", {
        "sample_size": 8, "block_out_channels": [8, 16], "layers_per_block": 2, "norm_num_groups": 4,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"], "attention_head_dim": 4, "cross_attention_dim": 16,
    }),
    "vae": ("diffusers", "AutoencoderKL", {
        "block_out_channels": [8, 8], "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2, "norm_num_groups": 4,
    }),
    "text_encoder": ("transformers", "CLIPTextModel", {
        "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
        "num_attention_heads": 2, "projection_dim": 16, "max_position_embeddings": 77,
    }),
    "tokenizer": ("transformers", "CLIPTokenizer", {}),
    "scheduler": ("diffusers", "DDIMScheduler", {}),
}  # fmt: skip


def _pipeline(**index: Any) -> dict[str, bytes]:
    named = {name: [library, cls] for name, (library, cls, _) in _PARTS.items()}
    stated = {"_class_name": "StableDiffusionPipeline", **named, "safety_checker": [None, None], **index}
    files = {"model_index.json": json.dumps({**stated, "feature_extractor": [None, None]}).encode()}
    for name, (_, cls, config) in _PARTS.items():
        if name != "tokenizer":
            file = "scheduler_config.json" if name == "scheduler" else "config.json"
            files[f"{name}/{file}"] = json.dumps({"_class_name": cls, **config}).encode()
            files[f"{name}/diffusion_pytorch_model.safetensors"] = b"must not be asked for"
            files[f"{name}/pytorch_model.bin"] = b"must not be asked for"
    return files


def _weights_asked_for(requests: list[tuple[str, str, str | None]]) -> list[str]:
    return [path for _, path, _ in requests if path.endswith((".safetensors", ".bin"))]


@pytest.mark.skipif(find_spec("diffusers") is None, reason="diffusers is not installed")
def test_a_pipeline_is_predicted_or_says_what_is_wrong(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "config.json").write_text(json.dumps(_PARTS["unet"][2]))
    whole = _pipeline()
    part = ["diffusers", "UNet2DConditionModel"]
    broken: dict[str, tuple[dict[str, bytes], str]] = {
        "org/no-unet": ({**whole, "unet/config.json": b""}, "unet/config.json: not valid JSON"),
        "org/no-vae": ({k: v for k, v in whole.items() if k != "vae/config.json"}, "vae has no config.json"),
        "org/no-steps": (
            {k: v for k, v in whole.items() if "scheduler" not in k}, "scheduler: no scheduler_config.json"
        ),
        "org/brace": ({**whole, "model_index.json": b"{"}, "model_index.json: not valid JSON"),
        "org/up": (_pipeline(**{"../up": part}), "'../up' is no name of a part"),
        "org/absolute": (_pipeline(**{str(outside): part}), "is no name of a part"),
        "org/own": (_pipeline(_class_name=["pipeline", "Own"]), "code of the repository itself"),
        "org/module": (_pipeline(_class_name="logging"), "has no pipeline logging"),
        "org/not-a-class": (_pipeline(unet=["diffusers", "logging"]), "which is no class"),
        "org/elsewhere": (_pipeline(unet=["os", "system"]), "unet is os.system, which cannot be had"),
    }  # fmt: skip
    repositories = {name: Repository(files) for name, (files, _) in broken.items()}
    with serve({"org/whole": Repository(whole), **repositories}) as hub:
        first, *answers = _calls(
            hub.url,
            tmp_path,
            ["predict", "org/whole", "--shrink", "--torch", "2.13", "--json"],
            *(["predict", name] for name in broken),
        )
    document = json.loads(first[1])
    assert document["target"]["architecture"] == "StableDiffusionPipeline"
    assert any("unet.layers_per_block 2 -> 1" in note for note in document["predicted"]["notes"])
    for (name, (_, text)), (code, told) in zip(broken.items(), answers, strict=True):
        assert code in (2, 3), (name, told)
        assert text in told, name
        assert "\n" not in told, name
    assert not _weights_asked_for(hub.requests)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("diffusers") is None, reason="diffusers is not installed")
def test_a_pipeline_runs_from_its_configs(tmp_path: Path) -> None:
    with serve({"org/whole": Repository(_pipeline())}) as hub:
        done = mpsprobe(
            "run", "org/whole", "--random-init", "--shrink", "--device", "emulated", "--torch", "2.13",
            *("--phase", "3", "--phase", "4", "--phase", "6"),
            cwd=tmp_path, **_environment(hub.url, tmp_path / "hf"),
        )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr
    run = Run.load(tmp_path / "reports" / "latest" / "run.json")
    checks = {check.id: check for check in run.checks}
    assert checks["inference.runs"].status.value == "pass", done.stdout
    assert checks["inference.parity"].status.value == "pass", checks["inference.parity"].message
    assert run.target.architecture == "StableDiffusionPipeline"
    assert not _weights_asked_for(hub.requests)


def test_without_a_connection_it_is_said_once_and_soon(tmp_path: Path) -> None:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
        "HF_ENDPOINT": "http://hub.invalid",  # a name that is nobody's (RFC 2606)
        "HF_HOME": str(tmp_path),
    }
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, "-m", "mpsprobe", "predict", "org/none"],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 3
    first, *rest = done.stderr.splitlines()
    assert first.startswith("mpsprobe: org/none, config.json: not in the cache, and the hub is not asked")
    assert len(rest) == 1, "what to do, and nothing of the tries of the hub's client"
