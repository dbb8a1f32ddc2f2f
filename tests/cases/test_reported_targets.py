"""Targets that public reports are about, with the answer that each engine owes.

Truth: the threads named in `targets/*.py`. Each target stands for a kind; the small tests of the engines are in
`tests/device/virtual`.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from mpsprobe.cli import cli
from mpsprobe.device.virtual.session import emulate
from mpsprobe.errors import MpsprobeError, OutOfReachError

pytestmark = [pytest.mark.own_process, pytest.mark.filterwarnings("ignore")]
TARGETS = Path(__file__).parent / "targets"
TEN_KEYS = ("--mac", "m2-max-32", "--dtype", "float32")


def predicted(target: str, release: str, *options: str) -> tuple[int, dict[str, Any]]:
    """Run `mpsprobe predict` in this process: exit code and document."""
    command = ["predict", str(TARGETS / f"{target}.py"), "--torch", release, "--json", *options]
    result = CliRunner().invoke(cli, command)
    assert result.stdout, result.exception
    document: dict[str, Any] = json.loads(result.stdout)
    return result.exit_code, document


def unpredicted(target: str, release: str) -> BaseException | None:
    return CliRunner().invoke(cli, ["predict", str(TARGETS / f"{target}.py"), "--torch", release]).exception


def verdicts(document: dict[str, Any], op: str) -> set[str]:
    return {use["verdict"] for use in document["op_uses"] if use["op"].split(".")[0] == f"aten::{op}"}


def emulated(target: str, release: str, **options: Any) -> tuple[Any, list[Any]]:
    """Load and infer under the virtual device: the outputs on the host, and the findings."""
    spec = importlib.util.spec_from_file_location(target, TARGETS / f"{target}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with emulate(release, **options) as session:
        torch.manual_seed(0)
        model = module.load(torch.device("mps"), torch.float32)
        batch = {name: tensor.to("mps") for name, tensor in module.prepare(module.sample()).items()}
        with torch.inference_mode():
            outputs = module.extract(module.infer(model, batch))
        return outputs, list(session.findings)


@pytest.mark.parametrize(
    ("release", "text"),
    [("2.8", "Trying to convert Float8_e4m3fn to the MPS backend"), ("2.14", "Undefined type Float8_e4m3fn")],
)
def test_float8_weights_are_refused_as_the_source_of_a_cast(release: str, text: str) -> None:
    code, document = predicted("float8_weights", release)
    assert code == 1
    assert "raises" in verdicts(document, "copy_")
    assert any(text in use["reason"] for use in document["op_uses"])
    with pytest.raises((TypeError, RuntimeError), match=text):
        emulated("float8_weights", release)


def test_a_target_may_take_gradients() -> None:
    assert predicted("backward_in_infer", "2.13")[0] == 0
    outputs, findings = emulated("backward_in_infer", "2.13")
    assert outputs["g"].shape == (1, 4)
    assert findings == []


def test_a_gradient_scaler_steps_from_2_8_on() -> None:
    assert predicted("grad_scaler_step", "2.13")[0] == 0
    assert emulated("grad_scaler_step", "2.13")[1] == []
    code, document = predicted("grad_scaler_step", "2.7")
    assert code == 1
    assert verdicts(document, "_amp_foreach_non_finite_check_and_unscale_") == {"raises"}
    with pytest.raises(NotImplementedError, match="_amp_foreach_non_finite_check_and_unscale_"):
        emulated("grad_scaler_step", "2.7", fallback=False)


def test_histc_of_int32_by_release() -> None:
    text = "\"histogram_mps\" not implemented for 'Int'"
    code, document = predicted("histc_of_int32", "2.11")
    assert (code, verdicts(document, "histc")) == (1, {"raises"})
    assert [use["reason"] for use in document["op_uses"] if use["verdict"] == "raises"] == [text]
    with pytest.raises(NotImplementedError) as raised:
        emulated("histc_of_int32", "2.11")
    assert str(raised.value) == text
    assert predicted("histc_of_int32", "2.13")[0] == 0
    outputs, findings = emulated("histc_of_int32", "2.13")
    assert outputs["y"].sum() == 10
    assert findings == []


def test_a_sparse_buffer_is_refused_before_2_9() -> None:
    refused = unpredicted("sparse_buffer", "2.8")
    assert "The model does not load on that Mac: NotImplementedError: Could not run" in str(refused)
    with pytest.raises(NotImplementedError, match="SparseMPS"):
        emulated("sparse_buffer", "2.8")
    unknown = unpredicted("sparse_buffer", "2.9")
    assert isinstance(unknown, MpsprobeError)
    assert "unknown here" in str(unknown)
    with pytest.raises(OutOfReachError):
        emulated("sparse_buffer", "2.9")


def test_compiled_code_is_unknown_and_the_eager_model_judged() -> None:
    code, document = predicted("compiled", "2.13")
    assert code == 1  # something is unknown
    assert {use["verdict"] for use in document["op_uses"]} <= {"native", "composite"}
    assert [one["kind"] for one in document["predicted"]["refusals"]] == ["compile"]
    said = CliRunner().invoke(cli, ["predict", str(TARGETS / "compiled.py"), "--torch", "2.13"]).stdout
    assert "\nUnknown\n" in said
    assert "Refused" not in said
    outputs, findings = emulated("compiled", "2.13")
    assert outputs["y"].shape == (1, 4)
    assert [one.kind for one in findings] == ["compile"]


def test_attention_scores_exceed_a_32_gb_macs_buffer() -> None:
    code, document = predicted("long_attention", "2.7", *TEN_KEYS)
    assert code == 1
    (refusal,) = document["predicted"]["refusals"]
    assert refusal["kind"] == "buffer"
    assert refusal["message"].startswith("Invalid buffer size: 19.38 GiB")
    assert predicted("long_attention", "2.7", "--mac", "m2-ultra-192", "--dtype", "float32")[0] == 0


@pytest.mark.parametrize(("release", "wrong"), [("2.8", True), ("2.10", True), ("2.11", False)])
def test_decoding_over_1500_keys_is_wrong_in_half_precision(release: str, wrong: bool) -> None:
    _, document = predicted("decode_1500", release, "--dtype", "bfloat16")
    attention = verdicts(document, "_scaled_dot_product_attention_math_for_mps")
    assert ("wrong" in attention) is wrong, attention


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "release", "code", "said"),
    [
        ("float8_weights", "2.8", 1, "Trying to convert Float8_e4m3fn to the MPS backend"),
        ("grad_scaler_step", "2.13", 0, ""),
    ],
)
def test_the_suite_says_the_same(target: str, release: str, code: int, said: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from mpsprobe.cli import main; main()", "run", f"{TARGETS / target}.py"]
    ran = subprocess.run(
        [*command, "--device", "emulated", "--torch", release, "--phase", "6", "--output", str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert ran.returncode == code, ran.stdout + ran.stderr
    document = json.loads((tmp_path / "run.json").read_text())
    assert said in " ".join(check["message"] for check in document["checks"])
