"""Code that a stranger planted: beside a model, in its repository, or in the environment."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from faults.case import BLOCKED, CRASHED, FAILED, MARK, PASSED, USAGE, Case
from faults.making import CONFIG, beside, file, model, target

PROMISE = (
    "No code of a repository, a folder or the environment runs before its user said yes to a list of it."
)

#: Modules that some library imports in any run, and names that a stranger would choose.
_SHADOWS = (
    "json.py", "torch.py", "psutil.py", "pytest.py", "kernels.py", "transformers.py", "numpy.py", "msgspec.py",
    "conftest.py", "sitecustomize.py", "usercustomize.py", "pytest_timeout.py", "safetensors/__init__.py",
    "mpsprobe/__init__.py", "faulthandler.py", "accelerate.py", "jinja2.py", "peft.py", "typing.py", "enum.py",
)  # fmt: skip
_RUN = ("run", ".", "--device", "cpu", "--phase", "3")
#: Any outcome is right unless the code runs; only the marker counts.
_ANY = {PASSED, FAILED, BLOCKED, CRASHED, USAGE}


def _package(name: str, **changes: object) -> Callable[[Path], None]:
    """Return a function that makes a model and plants a Python package that libraries import when it exists.

    Args:
        name: The name of the package.
        **changes: Fields of the model's config.
    """

    def prepare(folder: Path) -> None:
        model(folder / "m", **changes)
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(MARK)

    return prepare


def _auto_map(name: str, table: Mapping[str, object], config: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        model(
            folder / "m",
            **({"architectures": ["Odd"], "model_type": "odd"} if "AutoModel" in str(table) else {}),
        )
        path = folder / "m" / config
        data = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**data, "auto_map": table}))
        (folder / "m" / f"{name}.py").write_text(MARK)

    return prepare


def cases() -> Iterator[Case]:
    """Yield code that a stranger planted beside a model, in its repository or in the environment."""
    for name in _SHADOWS:
        short = name in ("json.py", "kernels.py", "pytest.py")
        yield Case(f"beside-the-model-{name}", _RUN, _ANY, prepare=beside(name), short=short)
    for name in ("json.py", "torch.py", "kernels.py"):
        yield Case(f"predict-beside-{name}", ("predict", "."), {PASSED, FAILED}, prepare=beside(name))
        yield Case(f"scan-beside-{name}", ("scan", "."), {PASSED, FAILED}, prepare=beside(name))
        yield Case(f"doctor-beside-{name}", ("doctor",), {PASSED, FAILED}, prepare=beside(name))
    run = ("run", "m", "--device", "cpu", "--phase", "3")
    for argv, kind in ((run, "run"), ((*run, "--random-init"), "random"), (("predict", "m"), "predict")):
        for key in ("_attn_implementation", "_attn_implementation_internal", "attn_implementation"):
            yield Case(
                f"kernel-{kind}-{key}", argv, {BLOCKED} if kind == "predict" else {FAILED}, "someone/kernel",
                prepare=_package("kernels", **{key: "someone/kernel"}), short=key == "_attn_implementation",
            )  # fmt: skip
    nested = {"text_config": {"_attn_implementation": "someone/kernel@v1:forward"}}
    yield Case(
        "kernel-in-a-part",
        run,
        {FAILED},
        "text_config._attn_implementation",
        prepare=_package("kernels", **nested),
    )
    yield Case("kernel-by-part", run, {FAILED}, "someone/kernel",
               prepare=_package("kernels", attn_implementation={"text": "someone/kernel"}))  # fmt: skip
    yield Case("kernel-of-experts", run, {FAILED}, "someone/experts",
               prepare=_package("kernels", _experts_implementation="someone/experts"))  # fmt: skip
    yield Case(
        "kernel-paged", run, {FAILED}, "paged", prepare=_package("kernels", _attn_implementation="paged|a/b")
    )
    generate = file("custom_generate/generate.py", MARK + "def generate(model, **k): return None\n")
    yield Case("custom-generate", run, {FAILED}, "custom_generate/generate.py", prepare=generate, short=True)
    yield Case(
        "custom-generate-phase-6",
        (*run[:-1], "6"),
        {BLOCKED},
        "custom_generate/generate.py",
        prepare=generate,
    )
    maps = (
        (
            "modeling_odd",
            {"AutoConfig": "modeling_odd.C", "AutoModelForCausalLM": "modeling_odd.Odd"},
            "config.json",
        ),
        ("tok", {"AutoTokenizer": ["tok.T", None]}, "tokenizer_config.json"),
        ("proc", {"AutoProcessor": "proc.P"}, "processor_config.json"),
        ("img", {"AutoImageProcessor": "img.P"}, "preprocessor_config.json"),
        ("feat", {"AutoFeatureExtractor": "feat.P"}, "preprocessor_config.json"),
    )
    for name, table, home in maps:
        yield Case(
            f"auto-map-{name}", run, _ANY, prepare=_auto_map(name, table, home), short=name == "modeling_odd"
        )
        yield Case(
            f"auto-map-random-{name}", (*run, "--random-init"), _ANY, prepare=_auto_map(name, table, home)
        )
    yield from _doors_of_inputs()
    outside = {"AutoConfig": "../../evil.C", "AutoModelForCausalLM": "../../evil.M"}
    yield Case(
        "auto-map-outside", run, {FAILED}, "auto_map", prepare=_auto_map("evil", outside, "config.json")
    )
    index = json.dumps({"_class_name": ["my_pipeline", "P"], "unet": ["unet", "U"]})
    yield Case(
        "diffusers-pipeline", ("predict", "m"), {BLOCKED, FAILED, USAGE}, prepare=_pipeline(index), short=True
    )
    index = json.dumps({"_class_name": "StableDiffusionPipeline", "unet": ["my_pipeline", "U"]})
    yield Case("diffusers-part", ("predict", "m"), {BLOCKED, FAILED, USAGE}, prepare=_pipeline(index))
    own_pipelines: tuple[tuple[str, dict[str, Any]], ...] = (
        ("custom", {"_class_name": "DDPMPipeline", "custom_pipeline": "my_pipeline"}),
        ("part-class", {"_class_name": "DDPMPipeline", "scheduler": ["my_pipeline", "P"]}),
        ("blocks", {"_class_name": "ModularPipeline", "_blocks_class_name": "P"}),
    )
    for name, stated in own_pipelines:
        index = json.dumps({**stated, "auto_map": {"ModularPipelineBlocks": "my_pipeline.P"}})
        yield Case(f"diffusers-{name}", ("predict", "m"), _ANY - {PASSED}, prepare=_pipeline(index))
    index = json.dumps({"_class_name": "StableDiffusionPipeline", "unet": ["os", "system"]})
    yield Case("diffusers-library", ("predict", "m"), {BLOCKED, FAILED, USAGE}, prepare=_pipeline(index))
    for name in ("pytorch_model.bin", "model.pt", "model.ckpt", "weights.pth"):
        yield Case(f"pickle-{name}", run, {FAILED}, "pickled weights", prepare=_pickled(name))
    chat = json.dumps({"chat_template": "{{ ''.__class__.__mro__[1].__subclasses__() }}"})
    yield Case("chat-template", run, _ANY, prepare=file("tokenizer_config.json", chat))
    for name, value in (
        ("PYTEST_PLUGINS", "planted"), ("PYTEST_ADDOPTS", "-p planted"), ("PYTHONSTARTUP", "{folder}/planted.py"),
        ("PYTEST_ADDOPTS", "--collect-only"), ("PYTEST_ADDOPTS", "-k nothing"),
        ("PYTHONWARNINGS", "error"), ("PYTEST_TIMEOUT", "1"), ("PYTHONBREAKPOINT", "planted.go"),
        ("TRUST_REMOTE_CODE", "True"), ("PYTHONPATH", ":"), ("PYTEST_DISABLE_PLUGIN_AUTOLOAD", ""),
    ):  # fmt: skip
        argv = ("run", "target.py", "--device", "cpu", "--phase", "3")
        yield Case(
            f"environment-{name}-{value.replace('/', '_').replace('{folder}', '')}".replace(" ", "_"), argv, {PASSED},
            prepare=_planted, env={name: value}, short=name == "PYTEST_ADDOPTS",
        )  # fmt: skip
    yield Case("consent-given", (*run, "--trust-remote-code"), _ANY, runs_code=True,
               prepare=file("custom_generate/generate.py", MARK))  # fmt: skip
    yield Case(
        "class-of-here-is-not-first",
        ("predict", "json:Thing"),
        {BLOCKED, FAILED, USAGE},
        prepare=beside("json.py"),
    )


#: A template that leaves the sandbox where there is none (jinja2's own `cycler` leads to the module `os`).
_TEMPLATE = (
    "{{ cycler.__init__.__globals__.os.mknod(cycler.__init__.__globals__.os.environ['FAULTS_FOLDER'] + '/THIS-RAN') }}"
    "{% for m in messages %}{{ m['content'] }}{% endfor %}"
)
_LLAVA = {
    "architectures": ["LlavaForConditionalGeneration"],
    "model_type": "llava",
    "text_config": CONFIG,
    "vision_config": {
        "model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14, "projection_dim": 16,
    },
    "image_token_index": 15,
}  # fmt: skip
_WAV2VEC2 = {
    "architectures": ["Wav2Vec2ForCTC"], "model_type": "wav2vec2", "hidden_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 16, "conv_dim": [8, 8], "conv_stride": [5, 2],
    "conv_kernel": [10, 3], "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}  # fmt: skip


def _doors_of_inputs() -> Iterator[Case]:
    """Yield runs through phase 6 with planted tokenizers, processors and templates, which `prepare` would load."""
    own = {
        "AutoTokenizer": ["evil.T", "evil.T"], "AutoProcessor": "evil.T", "AutoImageProcessor": "evil.T",
        "AutoFeatureExtractor": "evil.T", "AutoVideoProcessor": "evil.T",
    }  # fmt: skip
    kinds: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
        ("tokenizer", {}, {"tokenizer_config.json": {"tokenizer_class": "T", "auto_map": own}}),
        ("tokenizer-of-config", {"auto_map": {"AutoTokenizer": own["AutoTokenizer"]}}, {}),
        ("template", {}, {"tokenizer_config.json": {"chat_template": _TEMPLATE}}),
        ("template-file", {}, {"chat_template.jinja": _TEMPLATE, "additional_chat_templates/tool.jinja": _TEMPLATE}),
        ("generation", {}, {"generation_config.json": {"custom_generate": "evil", "trust_remote_code": True}}),
        ("processor", _LLAVA, {
            "processor_config.json": {"processor_class": "T", "auto_map": own, "image_processor": {"auto_map": own}},
            "preprocessor_config.json": {"image_processor_type": "T", "auto_map": own},
            "video_preprocessor_config.json": {"video_processor_type": "T", "auto_map": own},
        }),
        ("template-of-processor", _LLAVA, {
            "processor_config.json": {"processor_class": "LlavaProcessor", "patch_size": 14},
            "preprocessor_config.json": {"image_processor_type": "CLIPImageProcessor"},
            "chat_template.json": {"chat_template": _TEMPLATE},
        }),
        ("feature-extractor", _WAV2VEC2, {
            "preprocessor_config.json": {"feature_extractor_type": "T", "auto_map": own},
        }),
    )  # fmt: skip
    argv = ("run", "m", "--device", "cpu", "--random-init", "--phase", "6")
    for name, changes, files in kinds:
        yield Case(f"inputs-{name}", argv, _ANY, prepare=_inputs(changes, files))


def _inputs(changes: dict[str, Any], files: dict[str, Any]) -> Callable[[Path], None]:
    words = {**{f"t{i}": i for i in range(13)}, "<unk>": 13, "</s>": 14}
    tokenizer = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"},
                 "model": {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"}}  # fmt: skip
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "eos_token": "</s>",
                "pad_token": "</s>"}  # fmt: skip

    def prepare(folder: Path) -> None:
        there = folder / "m"
        model(there, **changes)
        (there / "evil.py").write_text(MARK + "class T: pass\n")
        (there / "tokenizer.json").write_text(json.dumps(tokenizer))
        (there / "tokenizer_config.json").write_text(json.dumps(settings))
        for name, content in files.items():
            path = there / name
            path.parent.mkdir(exist_ok=True)
            if isinstance(content, dict) and path.exists():
                content = {**json.loads(path.read_text()), **content}
            path.write_text(content if isinstance(content, str) else json.dumps(content))

    return prepare


def _planted(folder: Path) -> None:
    target()(folder)
    (folder / "planted.py").write_text(MARK + "def go(): pass\n")


def _pipeline(index: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        (folder / "m").mkdir()
        (folder / "m" / "model_index.json").write_text(index)
        (folder / "m" / "modular_model_index.json").write_text(index)
        (folder / "m" / "modular_config.json").write_text(index)
        (folder / "m" / "my_pipeline.py").write_text(MARK)
        (folder / "my_pipeline.py").write_text(MARK)

    return prepare


def _pickled(name: str) -> Callable[[Path], None]:
    #: A pickle that calls os.mknod of the marker: protocol 0, written by hand.
    code = b"cbuiltins\nexec\n(V" + MARK.strip().encode("unicode_escape") + b"\ntR."

    def prepare(folder: Path) -> None:
        model(folder / "m")
        (folder / "m" / "model.safetensors").unlink()
        (folder / "m" / name).write_bytes(code)

    return prepare
