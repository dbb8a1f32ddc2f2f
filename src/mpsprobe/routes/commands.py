"""Write the shell commands with which a user takes a route with this target and workload."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from mpsprobe.errors import MpsprobeError
from mpsprobe.knowledge.mlx import MlxLibrary
from mpsprobe.models import profile
from mpsprobe.options import OPTIONS, Settings
from mpsprobe.places import as_typed
from mpsprobe.quantities import enumerate_words
from mpsprobe.routes.case import Case
from mpsprobe.run import OpVerdict

_REPO = re.compile(r"[\w.-]+(/[\w.-]+)?")
#: Options of `mpsprobe run` that define the target and its workload, by their names in `Settings`.
_CARRIED = (
    "profile",
    "revision",
    "config",
    "dtype",
    "prompt_tokens",
    "new_tokens",
    "batch",
    "image_size",
    "frames",
    "steps",
    "audio_seconds",
    "autocast",
    "train",
)
#: Those that only a training step has.
_OF_STEPS = ("optimizer", "gradient_checkpointing", "accumulate")
#: The command that runs a model with each library, after `pip install`; from the library's own README.
_MLX = {
    "mlx-lm": 'mlx_lm.generate --model {repo} --max-tokens {tokens} --prompt "Hello"',
    "mlx-vlm": 'mlx_vlm.generate --model {repo} --max-tokens {tokens} --prompt "Describe it." --image picture.jpg',
    "mlx-embeddings": (
        "python -c 'from mlx_embeddings import generate, load; "
        'made = generate(*load("{repo}"), texts=["Hello"]); print(made.text_embeds.shape)\''
    ),
    "mlx-whisper": "mlx_whisper speech.wav --model mlx-community/{name}",
}
#: Libraries that load only weights that were converted for them.
_CONVERTED = {
    "mlx-whisper": "# converted weights: look for the exact name at https://huggingface.co/mlx-community?search_models={name}"
}
_NEW_TOKENS = 128
#: A fix that is a command already.
_COMMAND = re.compile(r"(python -m )?pip install ")
#: The words of such commands that name no package.
_PIP_WORDS = ("python", "-m", "pip", "install", "-U", "--upgrade", "--no-build-isolation", "&&")


@dataclass(frozen=True)
class Changes:
    """The changes of settings without which the target does not run.

    Attributes:
        release: A torch release in which nothing stops the target; empty when there is none.
        fallback: Whether PYTORCH_ENABLE_MPS_FALLBACK has to be set.
        left: The remaining fixes, in words or as pip commands.
    """

    release: str = ""
    fallback: bool = False
    left: tuple[str, ...] = ()


def words_of(settings: Settings) -> tuple[str, ...]:
    """Return the command-line words with which `mpsprobe run` gets the same target and workload."""
    words = [as_typed(settings.model)] if settings.model is not None else []
    for name in _CARRIED:
        value = getattr(settings, name)
        if value is not None:
            words += [f"--{name.replace('_', '-')}", as_typed(str(value))]
    # a prediction never needs weights; a run needs `--random-init` only for a class
    if settings.random_init and ":" in (settings.model or ""):
        words.append("--random-init")
    if settings.train is not None:
        words += ["--optimizer", settings.optimizer] if settings.optimizer is not None else []
        words += ["--gradient-checkpointing"] if settings.gradient_checkpointing else []
        words += ["--accumulate", str(settings.accumulate)] if settings.accumulate is not None else []
    if settings.trust_remote_code:
        words.append("--trust-remote-code")
    return tuple(words)


def words_of_line(line: Sequence[str]) -> tuple[str, ...] | None:
    """Return those words of a recorded `mpsprobe run` that define the target and its workload; None for other lines."""
    if not line or Path(line[0]).name != "mpsprobe" or "run" not in line:
        return None
    switches = {f"--{one.dashed}" for one in OPTIONS if one.type is bool}
    switches |= {f"--no-{one.dashed}" for one in OPTIONS if one.type is bool}
    switches |= {"--fix", "--yes", "--json", "--quiet", "--verbose", "--debug"}
    carried = {f"--{name.replace('_', '-')}" for name in (*_CARRIED, *_OF_STEPS)} | {"--trust-remote-code"}
    words = iter(line[list(line).index("run") + 1 :])
    kept: list[str] = []
    for word in words:
        name, equals, _ = word.partition("=")
        value = [next(words, "")] if word.startswith("--") and not equals and word not in switches else []
        if not word.startswith("-") or name in carried:
            kept += [word, *value]
    classes = [word for word in kept if ":" in word and not word.startswith("-")]
    return (*kept, "--random-init") if classes and "--random-init" in line else tuple(kept)


def in_words(fix: str) -> str:
    """Return a fix as a part of a sentence: `install PACKAGES` for a pip command, any other text unchanged."""
    if not _COMMAND.match(fix):
        return fix
    try:
        found = [str(Requirement(word)) for word in shlex.split(fix.rstrip(".")) if word not in _PIP_WORDS]
    except (InvalidRequirement, ValueError):
        return fix
    return f"install {enumerate_words(found)}"


def of_mps(case: Case, changes: Changes | None = None) -> list[str]:
    """Return the commands that make `changes` and then run the target on the Mac."""
    changes = changes or Changes()
    fallback = changes.fallback or bool(case.calls.get(OpVerdict.FALLBACK))
    newer = changes.release and not changes.fallback
    lines = [_pip(case, release=f"{changes.release}.*" if newer else "")]
    lines += [
        text if _COMMAND.match(text) else f"# change first: {text}" for text in dict.fromkeys(changes.left)
    ]
    if fallback:
        lines.append("export PYTORCH_ENABLE_MPS_FALLBACK=1")
    if changes.release and not newer:
        lines.append(f"# or without that variable, and on the GPU: pip install 'torch=={changes.release}.*'")
    return [*lines, _line("run", case, "--device", "mps")]


def of_hybrid(case: Case, gpu: str) -> list[str]:
    """Return the commands for developing on the Mac and comparing with the same computation on a rented GPU."""
    return [
        *of_mps(case),
        f"# on the rented {gpu}, in a checkout of mpsprobe",
        _pip(case, "."),
        _line("baseline", case, "--output", "baseline.safetensors"),
        "# back on the Mac, with that file",
        _line("diverge", case, "--against", "baseline.safetensors"),
    ]


def of_cloud(case: Case, gpu: str) -> list[str]:
    """Return the commands that run the target on a rented GPU."""
    return [
        f"# on the rented {gpu}, in a checkout of mpsprobe",
        _pip(case, "."),
        _line("run", case, "--device", "cuda"),
    ]


def of_mlx(case: Case, packages: Sequence[MlxLibrary]) -> list[str]:
    """Return the commands that run a repository's model in the first library that supports it; empty for none."""
    name = case.run.target.name
    # mlx-lm holds only the language half of some vision-language models
    order = ["mlx-lm", "mlx-whisper", "mlx-embeddings", "mlx-vlm"]
    if any("visi" in use.module or "visual" in use.module for use in case.uses):
        order.reverse()
    homes = {one.name for one in packages if case.architecture and one.module(case.architecture)}
    library = next((name for name in order if name in homes), "")
    words = case.words or ()
    if library not in _MLX or "--train" in words or not _REPO.fullmatch(name) or Path(name).exists():
        return []
    tokens = words[words.index("--new-tokens") + 1] if "--new-tokens" in words else None
    values = {"repo": name, "name": name.rpartition("/")[2], "tokens": tokens or _NEW_TOKENS}
    note = [_CONVERTED[library].format(**values)] if library in _CONVERTED else []
    return [f"pip install {library}", *note, _MLX[library].format(**values)]


def _pip(case: Case, *more: str, release: str = "") -> str:
    """Return the command that installs torch, what the target's profile requires and the packages `more`.

    Args:
        case: The target and the Mac.
        more: Further packages or folders.
        release: The torch release as pip takes it after `==`; empty for that of the Mac.
    """
    # no index has a build such as 2.13.0+cpu under that name
    release = release or case.mac.torch.partition("+")[0]
    return shlex.join(["pip", "install", f"torch=={release}", *required(case), *more])


#: The environment for which the requirements of a profile are chosen.
_ON_MAC = {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"}


def required(case: Case) -> list[str]:
    """Return what the target's profile requires on a Mac besides torch; empty where the profile cannot be read."""
    try:
        stated = profile.load(case.run.target.profile).requires
    except MpsprobeError:
        return []
    found = []
    for one in map(Requirement, stated):
        if one.name != "torch" and (one.marker is None or one.marker.evaluate(dict(_ON_MAC))):
            one.marker = None
            found.append(str(one))
    return found


def _line(command: str, case: Case, *more: str) -> str:
    words = (case.run.target.name,) if case.words is None else case.words
    return shlex.join(["mpsprobe", command, *words, *more])
