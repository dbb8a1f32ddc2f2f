"""The MLX route: libraries read without running them, parts, days."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpsprobe.knowledge.mlx import MlxLibrary, Proof
from mpsprobe.routes.mlx import components, route
from mpsprobe.run import Component, Viability
from tests.routes.cases import case, use

LLAMA = "transformers/models/llama/modeling_llama.py:10"
QWEN = "transformers/models/qwen3_vl/modeling_qwen3_vl.py:10"
LIBRARIES = [
    MlxLibrary("mlx-lm", "1", ["llama", "qwen3_vl"], {"mistral": "llama"}),
    MlxLibrary("mlx-vlm", "1", ["qwen3_vl"], {}),
]


def library(folder: Path) -> Path:
    """A library that must not be imported."""
    models = folder / "models"
    models.mkdir()
    (folder / "utils.py").write_text("raise SystemExit\nMODEL_REMAPPING = {'mistral': 'llama'}\n")
    (models / "llama.py").write_text("raise SystemExit\nclass ModelArgs: ...\nclass Model: ...\n")
    (models / "base.py").write_text("class BaseModelArgs: ...\n")
    (models / "broken.py").write_text("class Model(:\n")
    (models / "qwen3_vl").mkdir()
    (models / "qwen3_vl" / "__init__.py").write_text(
        "from .config import ModelConfig\nfrom .q import Model\n"
    )
    (models / "drafter").mkdir()
    return folder


def test_a_library_is_read_and_not_run(tmp_path: Path) -> None:
    found = components.read_library(library(tmp_path), "mlx-lm", "1")
    assert found.models == ["llama", "qwen3_vl"]
    assert found.module("mistral") == "llama"
    assert found.module("base") is None
    assert found.module("gpt2") is None


def test_looking_for_them_imports_none() -> None:
    components.libraries.cache_clear()
    assert [one.name for one in components.libraries()] == list(components.LIBRARIES)
    assert not {"mlx", *components.LIBRARIES.values()} & set(sys.modules)


def test_a_library_of_one_model_is_read_from_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "load_models.py").write_text("def load_model(path): ...\n")
    (tmp_path / "whisper.py").write_text("class ModelDimensions: ...\nclass Whisper: ...\n")
    (tmp_path / "audio.py").write_text("class Audio: ...\n")
    assert components.read_library(tmp_path, "mlx-whisper", "1").models == ["whisper"]


@pytest.mark.parametrize("name", ["llama", "whisper", "modernbert", "xlm-roberta"])
def test_a_library_holds(name: str) -> None:
    assert components.held_by(name)
    assert not components.held_by(f"{name}-of-nobody")


def line_of(source: str, text: str) -> int:
    spec = importlib.util.find_spec("transformers")
    assert spec is not None
    assert spec.origin is not None
    lines = (Path(spec.origin).parent.parent / source).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.startswith(text))


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    yield
    components._functions.cache_clear()


def judged(*uses: tuple[str, str, str], proofs: tuple[Proof, ...] = ()) -> list[Component]:
    """Components of uses given as op, module, source."""
    made = [use(op, module=module, source=source) for op, module, source in uses]
    return components.components(components.parts(made), LIBRARIES, proofs)


def proof(model_type: str, agrees: bool = True, device: str = "cpu") -> Proof:
    return Proof(
        model_type=model_type,
        package="mlx-lm",
        version="1",
        agrees=agrees,
        source="",
        device=device,
        error=1e-6,
        gate=1e-5,
        note="gelu differs",
    )


def test_parts_of_one_architecture_are_one() -> None:
    (one,) = judged(("aten::mm", "model.layers.0", LLAMA), ("aten::mm", "lm_head", LLAMA))
    assert (one.name, one.does, one.days) == ("model, lm_head", "reuse", (0.25, 0.25))


@pytest.mark.parametrize(
    ("proofs", "state", "does"),
    [
        ((), "name-only", "reuse"),
        ((proof("llama"),), "not-run-on-Metal", "reuse"),
        ((proof("llama", device="gpu"),), "reuse-proven", "reuse"),
        ((proof("llama", agrees=False),), "blocked", "port"),
        ((proof("qwen3_vl"),), "name-only", "reuse"),  # of another architecture
    ],
)
def test_a_name_is_not_proof(proofs: tuple[Proof, ...], state: str, does: str) -> None:
    (one,) = judged(("aten::mm", "model", LLAMA), proofs=proofs)
    assert (one.state, one.does) == (state, does)


def test_a_known_architecture_with_code_around_it_is_wrapped() -> None:
    (one,) = judged(("aten::mm", "expert.layers.0", QWEN), ("aten::mul.Tensor", "expert", "mine/expert.py:4"))
    assert (one.does, one.state, one.days) == ("wrap", "port-needed", (0.5, 1.0))


def test_an_architecture_that_neither_has_is_ported() -> None:
    source = "transformers/models/mamba/modeling_mamba.py"
    (one,) = judged(("aten::mm", "model", f"{source}:{line_of(source, '    def slow_forward') + 3}"))
    assert (one.does, one.state) == ("port", "port-needed")
    assert "mamba" in one.reason
    assert one.days[0] > 0.7  # that method and its class's constructor have more than 30 lines


def test_own_code_is_counted_by_the_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "\n".join(f"    a{n} = {n}" for n in range(299))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "act.py").write_text(
        f'def step():\n    """Said."""\n    # told\n\n{body}\n\n\ndef unused():\n    pass\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (one,) = judged(("aten::mm", "", "mine/act.py:5"), ("aten::mm", "", "mine/act.py:7"))
    assert one.name == "mine"
    assert one.days == (0.5 + 300 / 150, 0.5 + 300 / 150)  # 0.5 and a day for 150 lines
    (host,) = judged(("aten::nonzero", "", "mine/act.py:5"))
    assert host.days == (2.75, 2.75)  # an op on the host: a quarter of a day
    (missing,) = judged(("aten::grid_sampler_2d", "", "mine/act.py:5"))
    assert missing.days == (3.0, 3.5)  # an op to be written: half a day to one


def test_generation_is_no_part() -> None:
    found = judged(("aten::mm", "model", LLAMA), ("aten::argmax", "", "transformers/generation/utils.py:7"))
    assert [one.name for one in found] == ["model"]


def test_an_adapter_is_no_part_but_the_default_target_is() -> None:
    adapter = ("aten::copy_", "", "site-packages/mpsprobe/models/alpamayo/adapter.py:9")
    assert judged(adapter, ("aten::mm", "vlm", QWEN))[0].name == "vlm"
    (one,) = judged(("aten::mm", "", "src/mpsprobe/models/tiny_drive/model.py:9"))
    assert one.name == "src/mpsprobe/models/tiny_drive"


@pytest.mark.parametrize(("generates", "low", "high"), [(True, 2, 3), (False, 0.25, 0.5)])
def test_a_port_takes_more_days_than_its_parts(generates: bool, low: float, high: float) -> None:
    loop = [use(source="transformers/generation/utils.py:9")] if generates else []
    made = case([use(source=QWEN, module="vlm"), use(source="mine/act.py:5", module=""), *loop])
    work = route.effort(made, LIBRARIES)
    assert work.days is not None
    written = (
        0.5 + 1 / 150
    )  # new code of one line; what is reused takes 0.25, tests and validation half as long each
    assert work.days == (round(0.25 + 2 * written + low, 1), round(0.25 + 2.5 * written + high, 1))
    assert work.outside == (work.days[0] / 2, work.days[1] * 1.5)


def test_validation_of_a_large_port_has_an_end() -> None:
    large = [use(source=f"mine/part{number}/act.py:5", module=f"part{number}") for number in range(20)]
    work = route.effort(case(large), LIBRARIES)
    assert work.days is not None
    written = sum(one.days[1] for one in work.components)
    assert written > 9
    assert work.days == (round(written + 0.25 + 2 + 2, 1), round(written + 0.5 + 3 + 2, 1))


def test_where_all_is_reused_nothing_is_written() -> None:
    work = route.effort(case([use(source=LLAMA)]), LIBRARIES)
    assert work.reused
    assert work.days == (0.2, 3.2)  # 0.25, and at most the validation on a Mac


def test_without_op_uses_nothing_is_said() -> None:
    found, work = route.route(case([]))
    assert found.viability is Viability.UNKNOWN
    assert work.days is None


def test_an_unproven_name_is_not_a_yes() -> None:
    found, _ = route.route(case([use(source="transformers/models/gemma2/modeling_gemma2.py:3")]))
    assert found.viability is Viability.UNKNOWN
    proven, _ = route.route(case([use(source=LLAMA)]))
    assert proven.viability is Viability.YES


def test_a_stock_architecture_takes_minutes_of_set_up() -> None:
    source = "transformers/models/llama/modeling_llama.py"
    uses = [
        use("aten::mm", module="model.layers.0.mlp", source=f"{source}:{line_of(source, 'class LlamaMLP')}")
    ]
    found, work = route.route(case(uses, architecture="llama"))
    assert work.reused
    assert any("minutes of set-up" in reason for reason in found.reasons)
    assert not any("days" in reason for reason in found.reasons)
