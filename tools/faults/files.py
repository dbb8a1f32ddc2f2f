"""Files of a model on this machine: damaged, hostile, endless, or not regular files."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from faults.case import BLOCKED, FAILED, PASSED, USAGE, Case
from faults.making import CONFIG, config, file, model, weights

PROMISE = (
    "A damaged or hostile file is named in one line; nothing waits for a pipe, and nothing reads without end."
)

_RUN = ("run", "m", "--device", "cpu", "--phase", "3")
_WRONG = {FAILED, USAGE}


def _special(name: str, kind: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        model(folder / "m")
        path = folder / "m" / name
        path.unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            # a path of a socket may have some 100 bytes
            here = os.open(folder / "m", os.O_RDONLY)
            try:
                with socket.socket(socket.AF_UNIX) as made:
                    made.bind(f"/proc/self/fd/{here}/{name}")
            finally:
                os.close(here)
        elif kind == "folder":
            path.mkdir()
        elif kind == "loop":
            path.symlink_to(name)
        else:
            path.symlink_to(kind)

    return prepare


def _weights(raw: bytes) -> Callable[[Path], None]:
    return file("model.safetensors", raw)


def _header(header: object, data: bytes = bytes(16)) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def _index(data: object) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        model(folder / "m")
        (folder / "m" / "model.safetensors").unlink()
        weights(folder / "m" / "a.safetensors")
        raw = data if isinstance(data, bytes) else json.dumps(data).encode()
        (folder / "m" / "model.safetensors.index.json").write_bytes(raw)

    return prepare


def cases() -> Iterator[Case]:
    """Yield cases with model folders that hold broken, missing or special files."""
    for name in ("config.json", "model.safetensors", "tokenizer.json", "generation_config.json"):
        for kind in ("pipe", "socket", "/dev/zero", "/dev/stdin"):
            label = f"{kind.strip('/').replace('/', '-')}-{name}"
            yield Case(label, _RUN, _WRONG, r"is a (pipe|socket|device)", prepare=_special(name, kind), limit_s=120,
                       short=kind == "pipe" and name == "config.json")  # fmt: skip
    for name in ("config.json", "model.safetensors"):
        yield Case(f"folder-{name}", _RUN, _WRONG, name.partition(".")[0], prepare=_special(name, "folder"))
        yield Case(f"loop-{name}", _RUN, _WRONG, prepare=_special(name, "loop"))
        yield Case(
            f"predict-pipe-{name}",
            ("predict", "m"),
            {*_WRONG, BLOCKED},
            "pipe",
            prepare=_special(name, "pipe"),
            limit_s=120,
        )
    yield Case(
        "scan-pipe", ("scan", "m"), {PASSED, FAILED, USAGE}, prepare=_special("x.py", "pipe"), limit_s=60
    )
    texts: dict[str, str | bytes] = {
        "empty": "", "null": "null", "array": "[]", "text": "not json", "half": json.dumps(CONFIG)[:40],
        "latin": '{"a": "é"}'.encode("latin-1"), "nul": b"\x00" * 100, "deep": '{"a":' * 90 + "1" + "}" * 90,
        "very-deep": "[" * 200_000, "digits": '{"hidden_size": ' + "9" * 10_000 + "}",
        "large-integer": json.dumps({**CONFIG, "hidden_size": 2**70}), "long-name": json.dumps({**CONFIG, "x" * 5000: 1}),
        "bom": b"\xef\xbb\xbf" + json.dumps(CONFIG).encode(), "trailing": json.dumps(CONFIG) + "}",
    }  # fmt: skip
    for name, text in texts.items():
        yield Case(f"config-{name}", _RUN, _WRONG, "config.json", prepare=config(text),
                   short=name in ("very-deep", "digits"))  # fmt: skip
    for name in ("deep", "digits", "text"):
        yield Case(
            f"config-predict-{name}",
            ("predict", "m"),
            {*_WRONG, BLOCKED},
            "config.json",
            prepare=config(texts[name]),
        )
    hostile: dict[str, dict[str, Any]] = {
        "escape": {"architectures": ["\x1b[31mEvil"]}, "bidi": {"architectures": ["\u202eEvil"], "model_type": "\u202e"},
        "architectures-number": {"architectures": 1}, "architectures-empty": {"architectures": []},
        "architectures-nested": {"architectures": [["x"]]}, "type-number": {"model_type": 5},
        "no-type": {"model_type": "nothing-known"}, "negative": {"hidden_size": -8}, "zero-layers": {"num_hidden_layers": 0},
        "text-number": {"hidden_size": "many"}, "null-number": {"hidden_size": None}, "auto-map-list": {"auto_map": []},
        "auto-map-number": {"auto_map": {"AutoConfig": 5}}, "dtype": {"torch_dtype": "evil"}, "surrogate": {"x": "\ud800"},
        "quantised-odd": {"quantization_config": {"quant_method": "\x1b[31m"}}, "quantised-list": {"quantization_config": []},
    }  # fmt: skip
    for name, changes in hostile.items():
        text = json.dumps({**CONFIG, **changes})
        yield Case(f"hostile-{name}", _RUN, {PASSED, FAILED, USAGE, BLOCKED}, prepare=config(text))
        yield Case(
            f"hostile-random-{name}",
            (*_RUN, "--random-init"),
            {PASSED, FAILED, USAGE, BLOCKED},
            prepare=config(text),
        )
    headers: dict[str, bytes] = {
        "empty": b"", "short": b"\x01\x02", "cut": _header({"x": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}})[:20],
        "no-data": _header({"x": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}, b""),
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "html": b"<!DOCTYPE html><html>404",
        "huge-header": struct.pack("<Q", 2**62), "text": _header(b"not json"), "array": _header([]),
        "deep": _header(b"[" * 100_000), "digits": _header(b'{"x": ' + b"9" * 9000 + b"}"),
        "odd-dtype": _header({"x": {"dtype": "\x1b[31m", "shape": [2], "data_offsets": [0, 8]}}),
        "negative": _header({"x": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}),
        "offsets": _header({"x": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}),
        "no-tensors": _header({}), "shape-text": _header({"x": {"dtype": "F32", "shape": "2", "data_offsets": [0, 8]}}),
        "escape-name": _header({"\x1b]0;x\x07": {"dtype": "F32", "shape": [9], "data_offsets": [0, 8]}}),
    }  # fmt: skip
    for name, raw in headers.items():
        yield Case(
            f"weights-{name}",
            _RUN,
            {FAILED},
            "model.safetensors|weight",
            prepare=_weights(raw),
            short=name in ("lfs", "cut"),
        )
    indices: dict[str, object] = {
        "text": b"not json", "deep": b"[" * 100_000, "no-map": {}, "map-list": {"weight_map": []},
        "missing-shard": {"weight_map": {"x": "b.safetensors"}}, "outside": {"weight_map": {"x": "../../etc/passwd"}},
        "absolute": {"weight_map": {"x": "/etc/passwd"}}, "number": {"weight_map": {"x": 5}},
        "escape": {"weight_map": {"x": "\x1b[31m.safetensors"}}, "absent": {"weight_map": {"y": "a.safetensors"}},
        "long": {"weight_map": {"x": "n" * 5000 + ".safetensors"}}, "nul": {"weight_map": {"x": "a\x00.safetensors"}},
    }  # fmt: skip
    for name, data in indices.items():
        yield Case(f"index-{name}", _RUN, {FAILED}, prepare=_index(data), short=name == "outside")
    yield Case("float64", _RUN, {PASSED}, "float64", prepare=_weights(
        _header({"x": {"dtype": "F64", "shape": [2], "data_offsets": [0, 16]}})), short=True)  # fmt: skip
    yield from _drawn()


def _drawn() -> Iterator[Case]:
    """Yield cases with configs and weight indices that hypothesis draws."""
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis import strategies as st

    leaf = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=8))
    value = st.recursive(
        leaf,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    )
    drawn: list[tuple[str, Any, Any]] = []

    @seed(1)
    @settings(
        max_examples=16, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(st.sampled_from(sorted(CONFIG)), value, st.dictionaries(st.text(max_size=6), value, max_size=3))
    def draw(key: str, one: Any, weight_map: Any) -> None:
        drawn.append((key, one, weight_map))

    draw()
    for number, (key, one, weight_map) in enumerate(drawn):
        text = json.dumps({**CONFIG, key: one})
        yield Case(
            f"drawn-config-{number}", ("predict", "m"), {PASSED, FAILED, USAGE, BLOCKED}, prepare=config(text)
        )
        yield Case(
            f"drawn-index-{number}", _RUN, {PASSED, FAILED, USAGE}, prepare=_index({"weight_map": weight_map})
        )
