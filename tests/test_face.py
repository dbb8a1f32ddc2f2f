"""The face: what `import mpsprobe` offers, lazily, and that documents import nothing deeper."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mpsprobe
from mpsprobe.errors import UsageError
from mpsprobe.run import Run

ROOT = Path(__file__).parents[1]


def test_every_name_of_the_face_is_there_and_documented() -> None:
    for name in mpsprobe.__all__:
        found = getattr(mpsprobe, name)
        assert name in dir(mpsprobe)
        assert name == "__version__" or found.__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mpsprobe.nothing  # noqa: B018


def test_importing_it_imports_no_torch() -> None:
    code = "import mpsprobe, sys; mpsprobe.explain; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_documents_import_nothing_deeper() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        deeper = re.findall(
            r"^\s*(?:from|import) mpsprobe\.(?!suite import \*)\S+.*$", page.read_text(), re.MULTILINE
        )
        assert not deeper, page.name


@pytest.mark.filterwarnings("ignore")
def test_a_prediction_is_a_run_from_python_too(tmp_path: Path) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 600,
        "hidden_size": 128,
        "intermediate_size": 520,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    run = mpsprobe.predict(str(tmp_path), mac="m1-max-64", torch="2.3", new_tokens=2)
    assert isinstance(run, Run)
    assert any(use.op.startswith("aten::isin") and use.verdict == "raises" for use in run.op_uses)
    assert run.outlook is not None
    assert run.outlook.recommendation is not None
    with pytest.raises(UsageError, match=r"new_token: no such option\. Did you mean new_tokens"):
        mpsprobe.predict(str(tmp_path), new_token=2)
