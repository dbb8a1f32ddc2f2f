"""Every method of quantisation, by a tiny checkpoint: what transformers does with it on a Mac, and our answer."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version

import mpsprobe
from mpsprobe.knowledge import quantisation
from mpsprobe.knowledge.quantisation import LoadingAnswer, Outcome
from mpsprobe.models import quantised
from tests.knowledge.test_quantisation import CONFIGS
from tests.support import packed_checkpoints as made

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a Mac has no CUDA")

#: Methods whose packages have kernels for CUDA only: a checkpoint is its config beside plain weights.
CONFIG_ONLY = (
    "fbgemm_fp8", "eetq", "vptq", "higgs", "spqr", "quark", "fp_quant", "nvfp4", "fouroversix", "sinq", "gemma",
    "modelopt", "nunchaku_lite", "exl2",
)  # fmt: skip
#: Formats of compressed-tensors, by its presets.
PRESETS = ("W4A16", "W8A8", "FP8", "NVFP4", "MXFP4")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.plain(tmp_path_factory.mktemp("plain") / "model")


def _model(folder: Path, **options: Any) -> Any:
    """The model of a folder in bfloat16, as transformers loads it."""
    auto: Any = transformers.AutoModelForCausalLM
    return auto.from_pretrained(folder, dtype=torch.bfloat16, **options)


def _checkpoint(method: str, plain: Path, folder: Path) -> Path:
    """A checkpoint of a method, made by its package where that is what makes one."""
    stated = CONFIGS.get(method, {"quant_method": method, "bits": 4})
    if method in ("gptq", "auto-round"):
        return made.gptq(plain, folder, {**stated, "packing_format": "auto_round:auto_gptq", "sym": True})
    if method in ("fp8", "mxfp8"):
        return made.fp8(plain, folder, stated)
    if method == "metal":
        return made.affine(plain, folder, {**stated, "modules_to_not_convert": ["lm_head"]}, "qbiases")
    if method == "mlx":
        sizes = {"group_size": 64, "bits": 4}
        return made.affine(plain, folder, sizes, "biases", quantization=sizes)
    if method == "mxfp4":
        return made.mxfp4(folder, stated)
    if method == "quanto":
        tensors, linear = made.parts(plain)
        for name, weight in linear.items():
            tensors[f"{name}.weight._data"] = weight.to(torch.int8)
            tensors[f"{name}.weight._scale"] = torch.ones(len(weight), 1)
        return made.write(folder, tensors, stated)
    if method == "compressed-tensors":
        return made.by_compressed_tensors(plain, folder, "W4A16")
    if method == "hqq" and Version(transformers.__version__).major > 4:  # it saves none any more
        tensors, linear = made.parts(plain)
        tensors |= {f"{name}.W_q": one[:128].byte() for name, one in linear.items()}
        return made.write(folder, tensors, stated)
    if method in made.MADE_BY:
        return made.by_transformers(plain, folder, method)
    if method in CONFIG_ONLY:
        from safetensors.torch import load_file

        return made.write(folder, load_file(plain / "model.safetensors"), stated)
    packer = {"awq": made.awq, "aqlm": made.aqlm, "bitnet": made.bitnet}[method]
    return packer(plain, folder, stated)


def _loaded(folder: Path) -> tuple[str, str]:
    """What transformers does with a folder on the virtual MPS device: an outcome, and the error."""
    with mpsprobe.emulate(torch="2.13", macos="15.5"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model, report = _model(folder, output_loading_info=True)
        except Exception as problem:
            return "raises", f"{type(problem).__name__}: {problem}"
        if report["missing_keys"] or any("scale" in one for one in report["unexpected_keys"]):
            return "ignored", ""
        held = {str(one.dtype) for one in (*model.parameters(), *model.buffers())}
        held |= {type(one).__name__ for one in model.parameters()}
    small = held & {"torch.uint8", "torch.int8", "torch.int16", "torch.int32", "torch.float8_e4m3fn"}
    return ("packed" if small or any("Tensor" in one for one in held) else "dequantises"), ""


def _ours(folder: Path) -> LoadingAnswer:
    found = quantised.of_folder(folder, json.loads((folder / "config.json").read_text()))
    assert found is not None
    return quantisation.answer(found, transformers.__version__)


def _plain(text: str) -> str:
    return " ".join(text.split())


METHODS = [one.id for one in quantisation.methods() if one.id != "gguf"]  # test_gguf_files.py


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", METHODS)
def test_verdict_is_what_transformers_does(method: str, plain: Path, tmp_path: Path) -> None:
    known = next(one for one in quantisation.methods() if one.id == method)
    if method == "quark":
        pytest.importorskip("onnx", reason="amd-quark imports it")
    if not made.installed(method):
        folder = made.write(
            tmp_path / "made", {}, CONFIGS[method]
        )  # its package is asked for before its tensors
    else:
        folder = _checkpoint(method, plain, tmp_path / "made")
    answer = _ours(folder)
    assert answer.quantised.method == known
    outcome, error = _loaded(folder)
    if not any(one in answer.sentences[0] for one in ("without an error", "raises")) and answer.fails:
        # the release does not know the method: plain weights load, others lose their scales or do not fit
        assert outcome == (
            "dequantises" if method in CONFIG_ONLY else "raises" if "mismatch" in error else "ignored"
        )
        return
    if method == "gemma" and "mismatch" in error:  # its layers are packed, and the weights here are plain
        return
    assert answer.outcome.value == outcome, (answer, error)
    if "ackage" not in error and "kernels" not in error:
        assert _plain(error).startswith(_plain(answer.error)), (answer.error, error)


def test_every_method_is_made_or_config_only() -> None:
    made_here = set(METHODS) - set(CONFIG_ONLY)
    assert made_here == {
        "gptq", "awq", "bitsandbytes_4bit", "bitsandbytes_8bit", "fp8", "mxfp8", "mxfp4", "compressed-tensors",
        "torchao", "hqq", "quanto", "aqlm", "bitnet", "auto-round", "metal", "mlx",
    }  # fmt: skip


def test_bitnet_unpacks_what_auto_layers_hold(plain: Path, tmp_path: Path) -> None:
    """As microsoft/bitnet-b1.58-2B-4T states it: four ternary weights in a byte become a plain weight each."""
    stated = {**CONFIGS["bitnet"], "linear_class": "autobitlinear", "quantization_mode": "offline"}
    folder = made.bitnet(plain, tmp_path / "made", stated)
    assert _ours(folder).outcome.value == "dequantises"
    assert _loaded(folder) == ("dequantises", "")


@pytest.mark.filterwarnings("ignore")
def test_quanto_saves_what_transformers_leaves_out(plain: Path, tmp_path: Path) -> None:
    """optimum-quanto's own folder: nothing raises, and every quantised layer gets random weights."""
    if not made.installed("quanto_own"):
        pytest.skip("optimum-quanto is not installed")
    folder = made.by_optimum_quanto(plain, tmp_path / "made")
    assert _loaded(folder) == ("ignored", "")
    answer = _ours(folder)
    assert answer.outcome is Outcome.IGNORED
    assert "QuantizedModelForCausalLM" in answer.fix
    assert answer.quantised.bits == 4


_QUANTO = {"optimum-quanto": "0.2.7", "accelerate": "1.15.0"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(Version(transformers.__version__).major > 4, reason="quantizer_quanto.py of 4.57")
@pytest.mark.parametrize(
    ("packed", "outcome"), [("", "packed"), ("_data", "raises"), ("_data._data", "raises")]
)
def test_quanto_config_is_judged_by_what_is_stored(
    packed: str, outcome: str, plain: Path, tmp_path: Path
) -> None:
    """`create_quantized_param` freezes plain weights while they load, and names of packed ones are no modules."""
    from safetensors.torch import load_file

    tensors = load_file(plain / "model.safetensors")
    for name in [name for name in tensors if packed and "proj" in name]:
        weight = tensors.pop(name)
        tensors |= {f"{name}.{packed}": weight.byte(), f"{name}._scale": torch.ones(len(weight), 1)}
    folder = made.write(tmp_path / "made", tensors, {"quant_method": "quanto", "weights": "int8"})
    found = quantised.of_folder(folder, json.loads((folder / "config.json").read_text()))
    assert found is not None
    answer = quantisation.answer(found, "4.57.1", _QUANTO.get)
    assert answer.outcome.value == outcome
    assert "optimum.quanto" not in answer.fix  # its own loader asks for a quanto_qmap.json
    if made.installed("quanto_own"):
        loaded, error = _loaded(folder)
        assert loaded == outcome
        assert error.startswith(answer.error)


def test_quanto_map_without_its_package_is_seen(plain: Path, tmp_path: Path) -> None:
    """The layout of optimum-quanto 0.2.7: packed data and scales below each weight, and a map beside config.json."""
    tensors, linear = made.parts(plain)
    for name, weight in linear.items():
        tensors[f"{name}.weight._data"] = weight.to(torch.int8)
        tensors[f"{name}.weight._scale"] = torch.ones(len(weight), 1)
    folder = made.write(tmp_path / "made", tensors, None)
    outcome, _ = _loaded(folder)
    assert outcome == "ignored"
    assert _ours(folder).outcome is Outcome.IGNORED
    stated = {name: {"weights": "qfloat8_e4m3fn", "activations": "none"} for name in linear}
    (folder / "quanto_qmap.json").write_text(json.dumps(stated))
    answer = _ours(folder)
    assert answer.outcome is Outcome.IGNORED
    assert answer.quantised.float8
    assert "optimum.quanto" in answer.fix
    assert (
        not answer.dense
    )  # its own loader keeps them packed, and the ops of packed weights are not predicted


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("preset", PRESETS)
def test_compressed_formats_compute_or_are_refused(preset: str, plain: Path, tmp_path: Path) -> None:
    """On the virtual device of torch 2.13: what computes is not refused, and what is refused does not compute."""
    if not made.installed("compressed-tensors"):
        pytest.skip("compressed-tensors is not installed")
    folder = made.by_compressed_tensors(plain, tmp_path / "made", preset)
    found = quantised.of_folder(folder, json.loads((folder / "config.json").read_text()))
    assert found is not None
    answer = quantisation.answer(found, transformers.__version__, torch="2.13")
    error = ""
    with mpsprobe.emulate(torch="2.13", macos="15.5"):
        model = _model(folder).to("mps")
        try:
            model(torch.tensor([[1, 2, 3]], device="mps"))
        except RuntimeError as problem:
            error = f"{type(problem).__name__}: {problem}"
    assert error.startswith(answer.error)
    assert bool(error) is answer.raises
    stored = sum(one.stat().st_size for one in folder.glob("*.safetensors"))
    linear = {name: (one.numel(), one.numel() * 2) for name, one in made.parts(plain)[1].items()}
    whole = sum(one.stat().st_size for one in plain.glob("*.safetensors"))
    assert quantisation.weight_bytes(found, whole, linear) == pytest.approx(stored, rel=0.03)


def test_codes_of_eight_bits_stop_aqlm_on_mps(plain: Path, tmp_path: Path) -> None:
    """Aqlm 1.1.7 turns such codes for its CPU kernel, and calls another on mps."""
    stated = {**CONFIGS["aqlm"], "nbits_per_codebook": 8}
    there = {"aqlm": "1.1.7", "accelerate": "1.15.0"}
    answer = quantisation.answer(quantisation.of_statement(stated), transformers.__version__, there.get)
    assert answer.raises
    pytest.importorskip("aqlm")
    folder = made.aqlm(plain, tmp_path / "made", stated)
    with mpsprobe.emulate(torch="2.13", macos="15.5"):
        model = _model(folder).to("mps")
        with pytest.raises(RuntimeError) as raised:
            model(torch.tensor([[1, 2, 3]], device="mps"))
    assert f"RuntimeError: {raised.value}".startswith(answer.error)


def test_mlx_key_alone_raises_as_in_transformers(plain: Path, tmp_path: Path) -> None:
    """Older mlx-lm wrote `quantization` and no `quantization_config`."""
    sizes = {"group_size": 64, "bits": 4}
    folder = made.affine(plain, tmp_path / "made", None, "biases", quantization=sizes)
    outcome, error = _loaded(folder)
    answer = _ours(folder)
    assert outcome == answer.outcome.value == "raises"
    assert _plain(error).startswith(answer.error)


@pytest.mark.parametrize("version", ["5.0.0", "5.10.4", "5.24.0"])
def test_hqq_is_left_out_from_transformers_five(version: str) -> None:
    """quantizers/quantizer_hqq.py: `create_quantized_param` is a comment in 5.0.0 to 5.10.4, and gone in 5.24."""
    found = quantisation.of_statement(CONFIGS["hqq"])
    there = {"hqq": "0.2.8.post1"}
    nothing: dict[str, str] = {}
    assert quantisation.answer(found, version, there.get).outcome is Outcome.IGNORED
    assert quantisation.answer(found, version, nothing.get).raises
    assert quantisation.answer(found, "4.57.1", there.get).outcome is Outcome.PACKED


def test_gptq_with_optimum_alone_raises_its_name_error() -> None:
    """optimum 2.3.0, optimum/gptq/quantizer.py: QuantizeConfig is imported from gptqmodel where that is installed."""
    found = quantisation.of_statement(CONFIGS["gptq"])
    for version in ("4.57.1", "5.24.0"):
        answer = quantisation.answer(found, version, {"optimum": "2.3.0"}.get)
        assert answer.error == "NameError: name 'QuantizeConfig' is not defined"
        assert "gptqmodel" in answer.fix


def test_gguf_stays_packed_with_the_kernels_of_its_release() -> None:
    """quantizers/quantizer_gguf.py of 5.24.0: `validate_environment` dequantises without `kernels`, which it bounds."""
    found = quantisation.of_statement({"quant_method": "gguf"})
    there = {"gguf": "0.19.0", "accelerate": "1.15.0"}
    without = quantisation.answer(found, "5.24.0", there.get)
    assert without.outcome is Outcome.DEQUANTISES
    assert "kernels<0.19,>=0.18.2" in without.sentences[-1]
    for kernels, outcome in (("0.17.2", Outcome.DEQUANTISES), ("0.18.2", Outcome.PACKED)):
        answer = quantisation.answer(found, "5.24.0", {**there, "kernels": kernels}.get)
        assert answer.outcome is outcome


def test_aqlm_keeps_modules_by_their_names_from_five_on() -> None:
    """quantizers_utils.py of 5.24.0, should_convert_module: "lm_head.weight" does not keep "lm_head"."""
    there = {"aqlm": "1.1.7", "accelerate": "1.15.0"}
    for name, outcome in (("lm_head.weight", Outcome.IGNORED), ("lm_head", Outcome.PACKED)):
        stated = {**CONFIGS["aqlm"], "linear_weights_not_to_quantize": [name]}
        found = quantisation.of_statement(stated)
        assert quantisation.answer(found, "5.24.0", there.get).outcome is outcome
        assert quantisation.answer(found, "4.57.1", there.get).outcome is Outcome.PACKED
