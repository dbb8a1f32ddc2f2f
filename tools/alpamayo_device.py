"""Alpamayo-R1 at full size with random weights on a GPU: written, loaded, timed with and without mpsprobe.

    PYTHONPATH=src:ALPAMAYO/src python tools/alpamayo_device.py --out OUT

ALPAMAYO is a checkout of github.com/NVlabs/alpamayo, whose inference needs transformers 4.57, hydra-core,
colorlog, einops and scipy. Needed: 22 GB of disk below --folder, 25 GB of GPU memory; with 60 GB of main memory
free, parity with a float32 reference on the CPU is checked too. Steps run one after the other, each in a process
of its own:

    build     config, tokenizer and random weights, as safetensors files of at most 5 GB
    plain     load and sample with only the package, as its own example does
    suite     the six phases of mpsprobe over the same folder
    baseline  mpsprobe baseline, of a forward pass

What is found goes to OUT/figures.json and, for people, to the terminal. A small copy of it all, on any machine:

    PYTHONPATH=... python tools/alpamayo_device.py --out /tmp/out --device cpu --tiny --frames 1 --tokens 16
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

STEPS = ("build", "plain", "suite", "baseline")


def main() -> int:
    """Run the requested steps; return 0 when all of them ended normally."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.only:
        figures = globals()[f"_{options.only}"](options)
        (options.out / f".{options.only}.json").write_text(json.dumps(figures), encoding="utf-8")
        return 0
    found: dict[str, Any] = {}
    file = options.out / "figures.json"
    if file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
    failed = False
    for step in options.steps.split(","):
        begun = time.perf_counter()
        part = options.out / f".{step}.json"
        part.unlink(missing_ok=True)
        try:
            code = subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], "--only", step], timeout=options.limit
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
            _say(f"{step}: stopped after {options.limit} s")
        wall = round(time.perf_counter() - begun, 1)
        if part.is_file():
            found[step] = {**json.loads(part.read_text(encoding="utf-8")), "step_s": wall}
            part.unlink()
        else:
            found[step] = {"failed": code, "step_s": wall}
            failed = True
        _say(f"{step}: {json.dumps(found[step], indent=2)}")
        _compare(found)
        file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    _say(json.dumps(found.get("overhead_percent", {})))
    return 1 if failed else 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="for the figures and reports")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/alpamayo-r1"), help="for the 22 GB")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", default=",".join(STEPS))
    parser.add_argument("--tiny", action="store_true", help="few layers and small widths: to try the script")
    parser.add_argument("--frames", type=int, default=4, help="of each camera")
    parser.add_argument("--tokens", type=int, default=256, help="of the longer samples")
    parser.add_argument("--rounds", type=int, default=10, help="timed samples after the first")
    parser.add_argument("--limit", type=float, default=420, help="seconds that a step may take")
    parser.add_argument("--only", choices=STEPS, help=argparse.SUPPRESS)
    return parser.parse_args()


def _build(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from mpsprobe.models.alpamayo import repository

    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    free = shutil.disk_usage(options.folder).free
    if not options.tiny and free < 25e9:
        raise SystemExit(f"{options.folder}: {free / 1e9:.0f} GB free, 25 GB needed.")
    begun = time.perf_counter()
    repository.write(options.folder, 3 if options.tiny else None, tiny=options.tiny)
    figures = repository.write_weights(options.folder, torch.device(options.device))
    return {**figures, "write_s": round(time.perf_counter() - begun, 1)}


def _plain(options: argparse.Namespace) -> dict[str, Any]:
    """Time the package's own calls in the order of its example; only the input comes from mpsprobe."""
    import torch

    from mpsprobe.models import choose
    from mpsprobe.phases.data import move
    from mpsprobe.phases.inference import autocast

    profile, _ = _profile(options)
    adapter: Any = choose.make_adapter(profile, options.folder)
    device = torch.device(options.device)
    cls = sys.modules["alpamayo_r1.models.alpamayo_r1"].AlpamayoR1 if _imported() else None
    assert cls is not None
    config = adapter.config()
    begun = time.perf_counter()
    model = cls.from_pretrained(options.folder, config=config, dtype=torch.bfloat16).to(device).eval()
    _wait(device)
    loaded = time.perf_counter() - begun
    sample = adapter.sample()
    begun = time.perf_counter()
    batch = adapter.prepare(sample)
    prepared = time.perf_counter() - begun
    prompt = int(batch["tokenized_data"]["input_ids"].shape[1])

    def sampled() -> tuple[float, Any]:
        from alpamayo_r1 import helper

        torch.manual_seed(42)
        data = helper.to_device(batch, device)
        _wait(device)
        began = time.perf_counter()
        with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16):
            result = model.sample_trajectories_from_data_with_vlm_rollout(
                data=data,
                top_p=0.98,
                temperature=0.6,
                num_traj_samples=1,
                max_generation_length=options.tokens,
                return_extra=True,
            )
        result = (result[0].cpu(), result[1].cpu(), result[2])
        return time.perf_counter() - began, result

    def probed() -> float:
        """Make the same calls as mpsprobe's phases, and return their seconds."""
        data = move(batch, device)
        _wait(device)
        began = time.perf_counter()
        with torch.inference_mode(), autocast(profile, device):
            adapter.extract(adapter.infer(model, data))
        _wait(device)
        return time.perf_counter() - began

    first, result = sampled()
    own = _own_cost(model, lambda: sampled()[0], probed, result)
    # in turns, so that the clock of the GPU is the same for both
    both = [(sampled()[0], probed()) for _ in range(options.rounds)]
    times, probed_times = (list(one) for one in zip(*both, strict=True))
    parts = _parts(model, device, sampled)
    figures = {
        "device": torch.cuda.get_device_name(0) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "load_s": round(loaded, 2),
        "processing_s": round(prepared, 3),
        "prompt_tokens": prompt,
        "first_sample_s": round(first, 3),
        "sample_s": _spread(times),
        "sample_by_mpsprobe_s": _spread(probed_times),
        "added_by_mpsprobe_s": own,
        "trace": result[2]["cot"].ravel().tolist(),
        "parts_s": parts,
    }
    # the trace ends the generation after some ten tokens; without it, it runs to the limit
    embedding = model.vlm.get_input_embeddings().weight
    start = model.tokenizer.convert_tokens_to_ids("<|cot_start|>")
    with torch.no_grad():
        embedding[start] = embedding[0]
    sampled()
    longer = [sampled()[0] for _ in range(min(options.rounds, 3))]
    figures[f"sample_of_{options.tokens}_tokens_s"] = _spread(longer)
    figures[f"parts_of_{options.tokens}_tokens_s"] = _parts(model, device, sampled)
    if device.type == "cuda":
        figures["weights_bytes"] = sum(p.numel() * p.element_size() for p in model.parameters())
        figures["peak_bytes"] = torch.cuda.max_memory_allocated()
        figures["peak_reserved_bytes"] = torch.cuda.max_memory_reserved()
    return figures


def _own_cost(model: Any, plain: Callable[[], float], probed: Callable[[], float], result: Any) -> float:
    """Return the seconds that mpsprobe adds to a sample, measured around a model that answers at once.

    Samples of several seconds differ by a tenth from one to the next, which would hide the difference.
    """

    def at_once(**_: Any) -> Any:
        model.vlm.generate()
        model.diffusion.sample()
        return result

    with (
        mock.patch.object(model.vlm, "generate", return_value=None),
        mock.patch.object(model.diffusion, "sample", return_value=None),
        mock.patch.object(model, "sample_trajectories_from_data_with_vlm_rollout", at_once),
    ):
        added = [probed() - plain() for _ in range(200)]
    return round(statistics.median(added), 6)


def _suite(options: argparse.Namespace) -> dict[str, Any]:
    """Run `mpsprobe run`, and return those parts of its report that are compared."""
    _, file = _profile(options)
    output = options.folder.parent / f"{options.folder.name}.run"
    phases = [argument for phase in range(1, 7) for argument in ("--phase", str(phase))]
    code = _mpsprobe(
        "run", str(options.folder), "--offline", "--device", options.device, "--profile", str(file),
        "--output", str(output), *phases,
    )  # fmt: skip
    for name in ("run.json", "report.md", "report.html", "child.err"):
        if (output / name).is_file():
            shutil.copyfile(output / name, options.out / name)
    document = json.loads((output / "run.json").read_text(encoding="utf-8"))
    measured = {
        measurement["name"]: measurement["value"]
        for check in document["checks"]
        for measurement in check.get("measurements", [])
    }
    statuses = {c["id"]: c["status"] for c in document["checks"]}
    return {"exit_code": code, "measured": measured, "statuses": statuses}


def _baseline(options: argparse.Namespace) -> dict[str, Any]:
    _, profile = _profile(options)
    file = options.folder / "alpamayo-r1.baseline.safetensors"
    arguments = [str(options.folder), "--offline", "--profile", str(profile), "--stage", "forward"]
    code = _mpsprobe("baseline", *arguments, "--device", options.device, "--output", str(file))
    return {"exit_code": code, "bytes": file.stat().st_size if file.is_file() else None}


def _profile(options: argparse.Namespace) -> tuple[Any, Path]:
    """Return the profile with the requested sample, and the file that holds it."""
    from mpsprobe.models import profile as profiles

    made = profiles.load("alpamayo-r1")
    text = (Path(profiles.__file__).parent / "profiles" / "alpamayo-r1.toml").read_text(encoding="utf-8")
    stated = f"frames = {made.sample['frames']}\n"
    assert stated in text
    file = options.folder.parent / f"{options.folder.name}.toml"
    file.write_text(text.replace(stated, f"frames = {options.frames}\n"), encoding="utf-8")
    return profiles.load(file), file


def _imported() -> bool:
    import alpamayo_r1.models.alpamayo_r1  # noqa: F401 - found in sys.modules

    return True


def _parts(model: Any, device: Any, sampled: Callable[[], tuple[float, Any]]) -> dict[str, Any]:
    """Return the seconds of one sample by its parts, synchronised between them."""
    parts: dict[str, Any] = {}
    tokens = 0

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def around(*args: Any, **kwargs: Any) -> Any:
            _wait(device)
            begun = time.perf_counter()
            result = call(*args, **kwargs)
            _wait(device)
            parts[name] = round(time.perf_counter() - begun, 4)
            nonlocal tokens
            if name == "generate":
                tokens = result.sequences.shape[1] - kwargs["input_ids"].shape[1]
            return result

        return around

    owners = {
        "generate": (model.vlm, "generate"),
        "flow": (model.diffusion, "sample"),
        "action_to_traj": (model.action_space, "action_to_traj"),
    }
    for name, (owner, attribute) in owners.items():
        owner.__dict__[attribute] = timed(name, getattr(owner, attribute))
    try:
        sampled()
    finally:
        for owner, attribute in owners.values():
            del owner.__dict__[attribute]
    return {**parts, "new_tokens": tokens}


def _compare(found: dict[str, Any]) -> None:
    """Add the cost of mpsprobe to the findings, in per cent of the median time of the package without it."""
    plain = found.get("plain", {})
    without = plain.get("sample_s", {}).get("median")
    ways = {
        "in turns with it, one process": plain.get("sample_by_mpsprobe_s", {}).get("median"),
        "phase 6 of mpsprobe run": found.get("suite", {}).get("measured", {}).get("time per sample"),
    }
    if without:
        found["overhead_percent"] = {
            way: round(100 * (seconds / without - 1), 2) for way, seconds in ways.items() if seconds
        }
        if "added_by_mpsprobe_s" in plain:
            found["overhead_percent"]["its own code"] = round(100 * plain["added_by_mpsprobe_s"] / without, 4)


def _spread(times: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(times), 4),
        "least": round(min(times), 4),
        "most": round(max(times), 4),
        "rounds": len(times),
    }


def _wait(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


def _mpsprobe(*arguments: str) -> int:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, "-m", "mpsprobe", *arguments], env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
