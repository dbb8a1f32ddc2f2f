"""Measure the speed of downloads and loads, as ratios within one run: `python benchmarks/hub.py [GB]`.

A server on localhost sends a repository of four weight files with sendfile. `hf download` (huggingface_hub's
`snapshot_download`) and mpsprobe fetch it in turn, each in a process of its own with an empty cache; mpsprobe
compares every checksum while bytes arrive, `hf download` compares none; therefore its time is also stated with the
checksums computed afterwards. Processor time is stated beside wall time: on a busy machine it is the steadier of
the two. Then the weights are read from beginning to end, and loaded as phase 4 loads them, each in a process of its
own, after a first read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "a" * 40
FILES = 4
ROUNDS = 3
_THEIRS = """
import hashlib, pathlib, resource, time
from huggingface_hub import snapshot_download
begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
folder = snapshot_download("org/model")
seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
for path in pathlib.Path(folder).iterdir():
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(4 << 20):
            digest.update(piece)
print(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.perf_counter() - begun)
"""
_OURS = """
import resource, sys, time
from huggingface_hub import snapshot_download  # imported by now, as above
from mpsprobe.models.hub import client
begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
done = client.download(client.preflight("org/model"))
seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
assert not done.unverified
print(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, after.ru_maxrss / 1e6)
"""
_READ = """
import sys, time
from pathlib import Path
piece = bytearray(8 << 20)
begun = time.perf_counter()
for path in sorted(Path(sys.argv[1]).glob("*.safetensors")):
    with path.open("rb", buffering=0) as file:
        while file.readinto(piece):
            pass
print(time.perf_counter() - begun)
"""
_LOAD = """
import resource, sys, time
import torch, transformers
from pathlib import Path
from mpsprobe.models.transformers_auto import load_pretrained
transformers.LlamaForCausalLM
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begun = time.perf_counter()
model = load_pretrained(transformers.LlamaForCausalLM, Path(sys.argv[1]), torch.device("cpu"), "bfloat16")
total = sum(one.flatten()[:: 2048].float().sum() for one in model.parameters())  # every page is read
seconds = time.perf_counter() - begun
weights = sum(p.numel() * p.element_size() for p in model.parameters())
print(seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / weights)
"""


def write_model(folder: Path, gigabytes: float) -> None:
    """Write a bfloat16 Llama of about `gigabytes` times 10^9 bytes: its config, index and `FILES` weight files."""
    hidden, inner, layers = 2048, 5632, max(1, round(gigabytes * 1e9 / (2 * (4 * 2048**2 + 3 * 2048 * 5632))))
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
              "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": 16,
              "num_key_value_heads": 16, "vocab_size": 1024, "torch_dtype": "bfloat16"}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {
        "model.embed_tokens.weight": (1024, hidden),
        "lm_head.weight": (1024, hidden),
        "model.norm.weight": (hidden,),
    }
    for i in range(layers):
        at = f"model.layers.{i}."
        shapes |= {f"{at}self_attn.{n}_proj.weight": (hidden, hidden) for n in "qkvo"}
        shapes |= {f"{at}mlp.{n}_proj.weight": (inner, hidden) for n in ("gate", "up")}
        shapes |= {f"{at}mlp.down_proj.weight": (hidden, inner)}
        shapes |= {f"{at}{n}_layernorm.weight": (hidden,) for n in ("input", "post_attention")}
    names, index = list(shapes), {}
    block = os.urandom(1 << 20)
    for number in range(FILES):
        name = f"model-{number + 1:05}-of-{FILES:05}.safetensors"
        header, position = {}, 0
        for tensor in names[number::FILES]:
            count = 2
            for size in shapes[tensor]:
                count *= size
            header[tensor] = {
                "dtype": "BF16",
                "shape": shapes[tensor],
                "data_offsets": [position, position + count],
            }
            position += count
            index[tensor] = name
        text = json.dumps(header).encode()
        with (folder / name).open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            while position > 0:
                file.write(block[: min(position, len(block))])
                position -= len(block)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def serve(folder: Path) -> tuple[str, ThreadingHTTPServer]:
    """Serve a folder as the repository org/model on localhost; return the server's URL and the server."""
    sums: dict[str, tuple[int, str]] = {}
    for path in folder.iterdir():
        with path.open("rb") as file:
            digest = (
                hashlib.file_digest(file, "sha256")
                if hasattr(hashlib, "file_digest")
                else hashlib.sha256(path.read_bytes())
            )
        sums[path.name] = path.stat().st_size, digest.hexdigest()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            name = path.rpartition("/")[2]
            if path.startswith("/api/"):
                lfs = {n: {"sha256": h, "oid": h, "size": s, "pointerSize": 1} for n, (s, h) in sums.items()}
                tree = [
                    {"type": "file", "path": n, "size": one["size"], "oid": "0" * 40, "lfs": one}
                    for n, one in lfs.items()
                ]
                siblings = [
                    {"rfilename": n, "size": one["size"], "blobId": "0" * 40, "lfs": one}
                    for n, one in lfs.items()
                ]
                info = {"id": "org/model", "sha": COMMIT, "private": False, "gated": False, "tags": []}
                data = json.dumps(tree if "/tree/" in path else {**info, "siblings": siblings}).encode()
                self.begin(200, len(data), {"Content-Type": "application/json"})
                self.wfile.write(data)
                return
            size, digest = sums[name]
            begin, end = 0, size
            if given := self.headers.get("Range"):
                first, _, last = given.removeprefix("bytes=").partition("-")
                begin, end = int(first), min(int(last) + 1 if last else size, size)
            headers = {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            if given:
                headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
            self.begin(206 if given else 200, end - begin, headers)
            if body:
                self.wfile.flush()
                with (folder / name).open("rb") as file:
                    while begin < end:
                        begin += os.sendfile(self.connection.fileno(), file.fileno(), begin, end - begin)

        def begin(self, status: int, length: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(length))
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}", server


def timed(code: str, *arguments: str, **env: str) -> list[float]:
    """Run code in its own process, and return the numbers that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=True,
    )
    return [float(word) for word in done.stdout.split()]


def main() -> None:
    """Print the throughput of mpsprobe's downloads beside that of `hf download`, and of loading the files."""
    gigabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    root = Path(tempfile.mkdtemp(prefix="mpsprobe-speed-", dir=os.environ.get("TMPDIR")))
    try:
        source = root / "source"
        source.mkdir()
        write_model(source, gigabytes)
        total = sum(path.stat().st_size for path in source.iterdir())
        url, server = serve(source)
        theirs: list[list[float]] = []
        ours: list[list[float]] = []
        for _ in range(ROUNDS):
            for code in (_THEIRS, _OURS):
                home = root / "home"
                env = {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "MPSPROBE_CACHE": str(home),
                       "HF_HUB_DISABLE_PROGRESS_BARS": "1"}  # fmt: skip
                found = timed(code, **env)
                (theirs if code is _THEIRS else ours).append(found)
                shutil.rmtree(home)
        server.shutdown()
        hf, hf_cpu, hf_compared = (median(one[i] for one in theirs) for i in range(3))
        mine, cpu = (median(one[i] for one in ours) for i in range(2))
        print(f"{total / 1e9:.2f} GB in {FILES} files, {ROUNDS} rounds, medians")  # noqa: T201
        gb = total / 1e9
        print(f"hf download {gb / hf:.2f} GB/s; mpsprobe, every checksum compared, {gb / mine:.2f} GB/s "  # noqa: T201
              f"({hf / mine:.2f} of it); hf download and then sha256 {gb / hf_compared:.2f} GB/s")  # fmt: skip
        print(f"processor time {hf_cpu:.2f} s, {cpu:.2f} s; peak memory {max(one[2] for one in ours):.2f} GB")  # noqa: T201
        timed(_READ, str(source))
        reads = [timed(_READ, str(source))[0] for _ in range(ROUNDS)]
        loads = [timed(_LOAD, str(source)) for _ in range(ROUNDS)]
        load = median(one[0] for one in loads)
        print(f"plain read {total / 1e9 / median(reads):.2f} GB/s; load {total / 1e9 / load:.2f} GB/s "  # noqa: T201
              f"({median(reads) / load:.2f} of it); peak {max(one[1] for one in loads):.2f} x the weights")  # fmt: skip
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
