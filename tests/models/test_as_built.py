"""Models as their users build them: classes that compute when they are made, inputs that nobody states, skeletons."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from mpsprobe.cli import cli
from mpsprobe.errors import TargetError
from mpsprobe.models import skeleton
from mpsprobe.models.weightless import guessed, plain_module, unfed

_ZOO = '''
import torch
from torch import nn


class Strided(nn.Module):
    """As ultralytics' DetectionModel: its stride comes from a forward pass of its constructor."""

    def __init__(self, channels=3):
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, 2, 1)
        self.stride = torch.tensor([64 / self.forward(torch.zeros(1, channels, 64, 64)).shape[-2]])
        with torch.no_grad():
            self.conv.bias.fill_(self.stride.item())

    def forward(self, x):
        return self.conv(x)


class Sized(nn.Module):
    """As docTR's CRNN: the size of its head is that of an output, and no value is read."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        with torch.inference_mode():
            found = self.conv(torch.zeros(1, 3, 32, 32)).shape
        self.head = nn.Linear(found[1] * found[2], 4)
        self.register_buffer("heads", torch.eye(4).to_sparse(), persistent=False)  # as openai-whisper's

    def forward(self, x):
        return self.head(self.conv(x).flatten(1, 2).transpose(1, 2))


class Spoken(nn.Module):
    """As VITS: values within bounds are transformed, and a sum of durations is the length of the sound."""

    def __init__(self):
        super().__init__()
        self.durations, self.sound = nn.Linear(1024, 1), nn.Linear(1024, 4)

    def forward(self, x):
        found = self.durations(x)
        inside = (found >= -5) & (found <= 5)
        if torch.min(found[inside]) < -5:
            raise ValueError("not within its domain")
        length = torch.clamp_min(found.exp().sum((1, 2)), 1).long()
        frames = torch.arange(length.max(), device=x.device)
        return self.sound(x[:, torch.clamp(frames, max=x.shape[1] - 1)])


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, graph, image_flags):
        return self.layer(graph.nodes) * image_flags.flags


def factory(width=8):
    return nn.Sequential(nn.Linear(width, width), nn.ReLU())
'''


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of a user's own, in a folder of its own."""
    (tmp_path / "my_zoo.py").write_text(_ZOO)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("my_zoo", None)
    return "my_zoo"


def _predicted(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(cli, ["predict", *arguments, "--torch", "2.13", "--json"])
    assert result.exit_code in (0, 1), result.exception
    return dict(json.loads(result.stdout))


def test_class_that_computes_in_its_constructor(zoo: str) -> None:
    """It is built on the CPU and moved, as its users do: no refusal may come of that."""
    document = _predicted(f"{zoo}:Strided")
    assert document["predicted"]["refusals"] == []
    assert document["predicted"]["stopped"] == ""
    assert [one["op"] for one in document["op_uses"]] != []


def test_class_that_computes_without_reading_values(zoo: str, tmp_path: Path) -> None:
    stated = tmp_path / "sized.json"
    stated.write_text('{"mpsprobe": {"inputs": {"x": {"shape": [1, 3, 32, 32]}}}}')
    document = _predicted(f"{zoo}:Sized", "--config", str(stated))
    assert document["predicted"]["refusals"] == []
    assert any("Its sparse heads is taken for dense" in one for one in document["predicted"]["notes"])


def test_sizes_by_values_are_assumed_again(zoo: str, tmp_path: Path) -> None:
    stated = tmp_path / "spoken.json"
    stated.write_text('{"mpsprobe": {"inputs": {"x": {"shape": [1, 512, 1024]}}}}')
    document = _predicted(f"{zoo}:Spoken", "--config", str(stated))
    assert document["predicted"]["stopped"] == ""
    assert any("taken to be 128" in one for one in document["predicted"]["notes"])
    assumed = {one["value"] for one in document["predicted"]["assumptions"]}
    assert {"True", "128"} <= assumed


def test_sparse_buffers_are_refused_where_a_mac_does(zoo: str, tmp_path: Path) -> None:
    """torch 2.9 is the first release with the dispatch key SparseMPS."""
    result = CliRunner().invoke(cli, ["predict", f"{zoo}:Sized", "--torch", "2.7", "--json"])
    assert "SparseMPS" in str(result.exception)


def test_factory_is_a_target(zoo: str) -> None:
    assert _predicted(f"{zoo}:factory")["target"]["architecture"] == "Sequential"


def test_input_that_cannot_be_made_up_is_named(zoo: str) -> None:
    result = CliRunner().invoke(cli, ["predict", f"{zoo}:Odd"])
    assert isinstance(result.exception, TargetError)
    assert "`graph`, `image_flags`" in result.exception.what
    assert "mpsprobe target new my_zoo:Odd" in result.exception.hint


class _Waveform(nn.Module):
    """Read sound.

    Args:
        sound: (B, 1, 4000), mono.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 9)

    def forward(self, sound: Tensor) -> Tensor:
        return self.conv(sound)


class _Policy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.eye, self.state = nn.Conv2d(3, 8, 8, 8), nn.Linear(14, 8)

    def forward(self, image: Tensor, state: Tensor) -> Tensor:
        return self.eye(image).mean((2, 3)) + self.state(state)


class _Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 4)

    def forward(self, idx: Tensor) -> Tensor:
        return self.table(idx)


def test_shape_of_a_docstring_is_taken() -> None:
    found = guessed.guess(_Waveform(), {}, torch.float32)
    assert found is not None
    assert found.inputs["sound"].shape == (1, 1, 4000)


def test_first_layers_say_what_several_arguments_are() -> None:
    with torch.device("meta"):
        model = _Policy()
    found = guessed.guess(model, {}, torch.float32)
    assert found is not None
    assert found.inputs["image"].shape[1] == 3
    assert found.inputs["state"].shape[-1] == 14


def test_a_condition_is_fed_where_the_constructor_has_its_width() -> None:
    """As the U-Net of diffusion policies: the docstring calls the first argument x, and names constructor arguments."""

    class Denoiser(nn.Module):
        def __init__(self, input_dim: int, global_cond_dim: int) -> None:
            super().__init__()
            self.embed = nn.Linear(global_cond_dim + 1, 8)
            self.conv = nn.Conv1d(input_dim, 8, 3, padding=1)

        def forward(
            self, sample: Tensor, timestep: Tensor, local_cond: Any = None, global_cond: Any = None
        ) -> Any:
            """
            x: (B,T,input_dim)
            timestep: (B,) or int, diffusion step
            """
            hidden = self.embed(
                torch.cat([global_cond, timestep.expand(len(sample))[:, None].float()], dim=-1)
            )
            return self.conv(sample.mT) + hidden[..., None]

    values = {"input_dim": 2, "global_cond_dim": 40}
    with torch.device("meta"):
        model = Denoiser(**values)
    found = guessed.guess(model, values, torch.float32)
    assert found is not None
    assert {name: list(value.shape) for name, value in found.inputs.items()} == {
        "sample": [1, 32, 2],
        "timestep": [1],
        "global_cond": [1, 40],
    }


def test_a_tube_embedding_takes_a_video() -> None:
    """As VideoMAE: the patch embedding holds the side, and its kernel spans two frames."""

    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.img_size = (112, 112)
            self.proj = nn.Conv3d(3, 8, (2, 16, 16), (2, 16, 16))

        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[-2:] == self.img_size
            return self.proj(x)

    class Video(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch_embed = Patches()

        def forward(self, x: Tensor) -> Any:
            tokens = self.patch_embed(x).flatten(2)
            return tokens + torch.zeros(8 * 49, device=x.device)

    with torch.device("meta"):
        model = Video()
    found = guessed.guess(model, {}, torch.float32)
    assert found is not None
    assert list(found.inputs["x"].shape) == [1, 3, 16, 112, 112]


def test_tokens_stay_below_the_vocabulary() -> None:
    found = guessed.guess(_Tokens(), {}, torch.float32)
    assert found is not None
    assert found.inputs["idx"].dtype is torch.int64
    assert int(found.inputs["idx"].max()) < 50


def test_ordinary_class_is_built_without_values() -> None:
    assert not plain_module.computes(_Policy, {})


class _Flagged(nn.Module):
    def forward(self, pixels: Tensor, image_flags: Tensor | None = None) -> Tensor:
        return pixels * image_flags.squeeze(-1)  # type: ignore[union-attr]


def test_argument_that_was_none_is_named() -> None:
    with pytest.raises(AttributeError) as raised:
        _Flagged()(torch.ones(1))
    assert unfed.missing_argument(raised.value) == "image_flags"
    with pytest.raises(TargetError, match="needs `image_flags`"):
        unfed.explain(raised.value, "Flagged", "owner/name")


def test_error_of_mps_says_nothing_of_the_input() -> None:
    problem = NotImplementedError("The operator 'aten::x' is not currently implemented for the MPS device.")
    unfed.explain(problem, "Any", "name")
    assert unfed.next_step(problem) == ""


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"type": "act", "n_action_steps": 1, "input_features": {}}, "lerobot policy ('act')"),
        ({"architecture": "resnet18", "num_classes": 10}, "timm model ('resnet18')"),
        ({"llm": {"model_type": "llama"}}, "a config of parts (llm)"),
    ],
)
def test_config_of_another_library_names_the_next_step(
    config: dict[str, Any], said: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    result = CliRunner().invoke(cli, ["predict", str(tmp_path)])
    assert isinstance(result.exception, TargetError)
    assert said in result.exception.what
    assert "mpsprobe target new" in result.exception.hint


def test_skeleton_of_a_class_runs_as_it_is(zoo: str, tmp_path: Path) -> None:
    written = CliRunner().invoke(cli, ["target", "new", f"{zoo}:Strided"])
    assert written.exit_code == 0, written.output
    document = _predicted("./target.py")
    assert document["predicted"]["stopped"] == ""
    again = CliRunner().invoke(cli, ["target", "new", f"{zoo}:Strided"])
    assert "is there already" in str(again.exception)


@pytest.mark.parametrize(
    ("name", "annotation", "value"),
    [
        ("batched_input", "typing.List[typing.Dict[str, typing.Any]]", "[]"),
        ("options", "dict[str, int]", "{}"),
        ("multimask_output", "bool", "False"),
        ("inference_session", "Sam2VideoInferenceSession", "None"),
        ("input_nodes", "torch.LongTensor", "torch.zeros([1, 32], dtype=torch.int64)"),
        ("attn_bias", "torch.Tensor", "torch.rand([1, 32])"),
    ],
)
def test_skeleton_values_fit_their_annotations(name: str, annotation: str, value: str) -> None:
    assert skeleton._value(name, annotation)[0] == value


def test_skeleton_of_a_policy_has_its_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    features = {"observation.state": {"type": "STATE", "shape": [14]}}
    (tmp_path / "config.json").write_text(json.dumps({"type": "act", "input_features": features}))
    written = CliRunner().invoke(cli, ["target", "new", "."])
    assert written.exit_code == 0, written.output
    text = (tmp_path / "target.py").read_text()
    assert "'observation.state': torch.rand([1, 14])" in text
    compile(text, "target.py", "exec")


def test_skeleton_of_remote_code_reads_its_signature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As InternVL's: the file is read with ast; a line that would raise shows that it was not run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "modeling_chat.py").write_text(
        "raise SystemExit('this must not run')\n"
        "class Chat:\n    def forward(self, pixel_values, input_ids=None, image_flags=None):\n"
        "        return image_flags.squeeze(-1)\n"
    )
    raw = {"model_type": "chat", "auto_map": {"AutoModel": "modeling_chat.Chat"}}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    written = CliRunner().invoke(cli, ["target", "new", "."])
    assert written.exit_code == 0, written.exception
    text = (tmp_path / "target.py").read_text()
    assert "'image_flags'" in text
    assert "trust_remote_code=True" in text
