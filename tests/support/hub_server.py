"""A Hugging Face Hub on localhost: the endpoints that huggingface_hub's client calls, over real HTTP, with faults.

Model info, tree, resolve with redirects of large files to another host, HEAD, Range and ETag are answered as
huggingface.co answers them (as read in the client's source); `Fault` says what goes wrong, where and how often.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "a" * 40
#: Files of this size and more are kept as Git LFS objects, bytes.
LFS = 1000
TOKEN = "hf_this_is_a_token_of_the_test_server"


@dataclass
class Fault:
    """One thing that goes wrong.

    Attributes:
        kind: `drop` (close after `at` bytes), `stall` (send nothing more after `at` bytes), `truncate` (a shorter file,
            with a Content-Length that fits it), `flip` (a bit of byte `at`), `length` (a Content-Length `at` too long),
            `etag` (another ETag), `status` (answer `status`), `loop` (redirect to itself), `no-range` (answer
            200 to a range), `shift` (answer a range with the bytes behind it), `slow` (`at` bytes a second), `html` (a
            page of text, as a sign-in page), `more` (bytes behind the end), `move` (the branch moves, then answer),
            `forget` (branches and tags vanish, then answer), `vanish` (the commit vanishes, then answer), `dribble`
            (close after `at` bytes, whatever was asked for), `trickle` (a byte each 50 ms from `at` on), `gzip` (packed
            although nobody asked), `broken-gzip` (said to be packed, and is not), `chunked` (without a Content-Length),
            `pointer` (the Git LFS pointer in place of the file), `redirect` (to the `Location` of `headers`), `cut`
            (half of the JSON), `text` (the text of `headers["text"]` in place of the JSON).
        where: `api`, `resolve` or `cdn`; `""` for each.
        file: only requests for this file; `""` for each.
        times: how often; -1 for ever.
        skip: requests that it leaves alone first.
        at: a byte, or an amount of bytes.
        status: HTTP status.
        headers: of the answer.
    """

    kind: str
    where: str = ""
    file: str = ""
    times: int = 1
    skip: int = 0
    at: int = 0
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Repository:
    """Files of one repository, and how the hub treats those who ask.

    Attributes:
        files: content by name, at `COMMIT`, which `main` means.
        gated: only accounts that accepted its licence may read it.
        private: only its owner's token sees it.
        commits: files of further commits.
        refs: branches and tags beside `main`.
        faults: what goes wrong.
        checksums: whether the listing states them.
        renamed_to: id that the hub sends those who ask to, as it does after a rename.
        disabled: nobody may read it any more.
        xet: answers name the Xet storage, as huggingface.co's do.
        listing: changes the model info before it is sent.
        cut_after: breaks off the first download of a file after so many bytes, as a lost connection does.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    gated: bool = False
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    checksums: bool = True
    renamed_to: str = ""
    disabled: bool = False
    xet: bool = False
    listing: Callable[[dict[str, Any]], None] = lambda _: None
    cut_after: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commits.setdefault(COMMIT, self.files)
        self.refs.setdefault("main", COMMIT)
        self.faults += [Fault("drop", file=name, at=at) for name, at in self.cut_after.items()]

    def commit(self, revision: str) -> str | None:
        """The commit that a revision means."""
        return revision if revision in self.commits else self.refs.get(revision)


@dataclass
class Hub:
    """The server's address, its repositories, and the requests it saw: method, path, Range header."""

    url: str
    repositories: dict[str, Repository]
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)


def blob_id(data: bytes) -> str:
    """The git blob id of a content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def pointer(data: bytes) -> bytes:
    """The LFS pointer of a content."""
    sha = hashlib.sha256(data).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha}\nsize {len(data)}\n".encode()


def pointer_id(data: bytes) -> str:
    """The git blob id of the LFS pointer of a content."""
    return blob_id(pointer(data))


#: Faults that an answer without a body can show, too.
_OF_HEADERS = ("status", "loop", "etag", "move", "html", "redirect", "forget", "vanish")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    lock: threading.Lock

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        self.body = body
        url = urlsplit(self.path)
        with self.lock:
            self.hub.requests.append((self.command, self.path, self.headers.get("Range")))
            self.hub.tokens.append(self.headers.get("Authorization"))
        path = unquote(url.path).strip("/")
        try:
            if path.startswith("api/models/"):
                self._api(path.removeprefix("api/models/"), parse_qs(url.query))
            elif path.startswith("cdn/"):
                self._cdn(parse_qs(url.query))
            else:
                self._resolve(path)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _fault(self, repository: Repository, where: str, file: str) -> Fault | None:
        with self.lock:
            for fault in repository.faults:
                if (
                    fault.times
                    and fault.where in ("", where)
                    and fault.file in ("", file)
                    and (self.body or fault.kind in _OF_HEADERS)
                    and self._covers(fault)
                ):
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.times -= fault.times > 0
                    return fault
        return None

    def _covers(self, fault: Fault) -> bool:
        """Whether the request is for the byte that the fault is about."""
        if fault.kind not in ("drop", "stall", "truncate", "flip"):
            return True
        first, _, last = (self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")
        return int(first) <= fault.at and (not last or fault.at <= int(last))

    def _plain_fault(self, fault: Fault | None) -> bool:
        """Answer a fault that has no body of a file; False when it is another."""
        if fault is None:
            return False
        if fault.kind == "status":
            self._error(fault.status, "", fault.headers.get("X-Error-Message", ""), fault.headers)
        elif fault.kind == "loop":
            self._send(302, b"", {"Location": self.path})
        elif fault.kind == "redirect":
            self._send(302, b"", fault.headers)
        elif fault.kind == "html":
            self._send(200, b"<html><title>Sign in</title></html>", {"Content-Type": "text/html"})
        elif fault.kind == "text":
            self._send(200, fault.headers["text"].encode(), {"Content-Type": "application/json"})
        else:
            return False
        return True

    def _allowed(self, name: str, repository: Repository | None, *, content: bool) -> bool:
        given = self.headers.get("Authorization")
        if given not in (None, f"Bearer {TOKEN}"):
            self._error(401, "", "Invalid credentials in Authorization header")
        elif repository is None or (repository.private and given is None):
            self._error(401, "RepoNotFound", "Repository not found")
        elif content and repository.gated:
            status, who = (403, "not in the authorized list") if given else (401, "you must be authenticated")
            self._error(status, "GatedRepo", f"Access to model {name} is restricted: {who}.")
        elif repository.disabled:
            self._error(403, "", "Access to this resource is disabled.")
        else:
            return True
        return False

    def _api(self, path: str, query: dict[str, list[str]]) -> None:
        name, _, rest = path.partition("/revision/")
        tree = False
        if "/tree/" in path:
            name, _, rest = path.partition("/tree/")
            tree = True
        repository = self.hub.repositories.get(name)
        if self._is_renamed(name, repository):
            return
        fault = self._fault(repository, "api", "") if repository is not None else None
        if self._plain_fault(fault):
            return
        if not self._allowed(name, repository, content=False):
            return
        assert repository is not None
        commit = repository.commit(rest.split("/")[0] if tree else (rest or "main"))
        if commit is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {rest}")
            return
        files = repository.commits[commit]
        if tree:
            self._json([_entry(file, data, repository.checksums) for file, data in files.items()])
            return
        siblings = [_sibling(file, data, repository.checksums) for file, data in files.items()]
        info = {
            "_id": "1", "id": name, "modelId": name, "sha": commit, "private": repository.private,
            "gated": "manual" if repository.gated else False, "tags": [], "downloads": 0, "likes": 0,
            "siblings": siblings if "blobs" in query else [{"rfilename": file} for file in files],
        }  # fmt: skip
        repository.listing(info)
        whole = json.dumps(info).encode()
        kind = fault.kind if fault is not None else ""
        if kind in ("gzip", "broken-gzip"):
            packed = gzip.compress(whole) if kind == "gzip" else whole
            self._send(200, packed, {"Content-Type": "application/json", "Content-Encoding": "gzip"})
        elif kind == "drop":
            self._file(whole, {"Content-Type": "application/json"}, fault)
        else:
            sent = whole[: len(whole) // 2] if kind == "cut" else whole
            self._send(200, sent, {"Content-Type": "application/json"})

    def _is_renamed(self, name: str, repository: Repository | None) -> bool:
        """Send those who ask for a renamed repository to its new name, as huggingface.co does."""
        if repository is None or not repository.renamed_to:
            return False
        self._send(307, b"", {"Location": self.path.replace(name, repository.renamed_to, 1)})
        return True

    def _resolve(self, path: str) -> None:
        owner_name, _, rest = path.partition("/resolve/")
        revision, _, name = rest.partition("/")
        if rest.startswith("refs/"):
            revision, name = "/".join(rest.split("/")[:3]), "/".join(rest.split("/")[3:])
        repository = self.hub.repositories.get(owner_name)
        if self._is_renamed(owner_name, repository):
            return
        fault = self._fault(repository, "resolve", name) if repository is not None else None
        if self._plain_fault(fault) or not self._allowed(owner_name, repository, content=True):
            return
        assert repository is not None
        if fault is not None and fault.kind == "move":
            repository.refs["main"] = next(c for c in repository.commits if c != repository.refs["main"])
            fault = None
        if fault is not None and fault.kind in ("forget", "vanish"):
            repository.refs.clear()
            if fault.kind == "vanish":
                repository.commits.clear()
            fault = None
        commit = repository.commit(revision)
        if commit is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        data = repository.commits[commit].get(name)
        if data is None:
            self._error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
            return
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        etag = hashlib.sha256(data).hexdigest() if len(data) >= LFS else blob_id(data)
        if fault is not None and fault.kind == "etag":
            etag, fault = "0" * len(etag), None
        if len(data) < LFS:
            self._file(data, {**headers, "ETag": f'"{etag}"'}, fault)
            return
        if repository.xet:
            token = f"http://localhost:1/api/models/{owner_name}/xet-read-token/{commit}"
            links = f'<{token}>; rel="xet-auth", <http://localhost:1/x>; rel="xet-reconstruction-info"'
            headers |= {"X-Xet-Hash": etag, "Link": links}
        if fault is not None:  # of the content: it goes along to the host that sends it
            with self.lock:
                repository.faults.insert(0, Fault(fault.kind, "cdn", name, at=fault.at, status=fault.status))
        port = int(self.server.server_address[1])  # type: ignore[index]
        where = f"http://localhost:{port}/cdn/file?repo={owner_name}&commit={commit}&name={name}"
        self._send(
            302,
            b"",
            {**headers, "Location": where, "X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))},
        )

    def _cdn(self, query: dict[str, list[str]]) -> None:
        repository = self.hub.repositories[query["repo"][0]]
        name = query["name"][0]
        if self.headers.get("Authorization"):  # as S3 answers: signed addresses and tokens exclude each other
            self._error(400, "", "Only one auth mechanism allowed")
            return
        fault = self._fault(repository, "cdn", name)
        if self._plain_fault(fault):
            return
        data = repository.commits[query["commit"][0]][name]
        self._file(data, {"ETag": f'"{hashlib.md5(data).hexdigest()}"', "Accept-Ranges": "bytes"}, fault)

    def _file(self, data: bytes, headers: dict[str, str], fault: Fault | None) -> None:
        kind, at = (fault.kind, fault.at) if fault is not None else ("", 0)
        if kind == "pointer":
            data = pointer(data)
        begin, end = 0, len(data)
        given = self.headers.get("Range")
        if given and kind != "no-range":
            first, _, last = given.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(int(last) + 1 if last else end, end)
            if begin >= len(data):
                self._error(416, "", "", {"Content-Range": f"bytes */{len(data)}"})
                return
            headers = {**headers, "Content-Range": f"bytes {begin}-{end - 1}/{len(data)}"}
        if kind == "shift" and begin:
            begin += at
            headers = {**headers, "Content-Range": f"bytes {begin}-{end - 1}/{len(data)}"}
        part = bytearray(data[begin:end])
        if kind == "flip" and begin <= at < end:
            part[at - begin] ^= 1
        if kind == "truncate":
            part = part[: max(0, at - begin)]
        if kind == "more":
            part += b"x" * at
        if kind in ("gzip", "broken-gzip"):
            headers = {**headers, "Content-Encoding": "gzip"}
            part = bytearray(gzip.compress(bytes(part), 0)) if kind == "gzip" else part
        length = len(part) + (at if kind == "length" else 0)
        self.send_response(206 if "Content-Range" in headers else 200)
        for name, value in headers.items():
            self.send_header(name, value)
        if kind == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if not self.body:
            return
        if kind == "chunked":
            for start in range(0, len(part), 50_000):
                piece = part[start : start + 50_000]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        elif kind == "trickle":
            self.wfile.write(part[: max(0, at - begin)])
            for start in range(max(0, at - begin), len(part)):
                self.wfile.write(part[start : start + 1])
                time.sleep(0.05)
        elif kind in ("drop", "stall", "dribble"):
            self.wfile.write(part[: at if kind == "dribble" else max(0, at - begin)])
            self.wfile.flush()
            if kind == "stall":
                time.sleep(60)
            self._hang_up()
        elif kind == "slow":
            for start in range(0, len(part), max(1, at // 10)):
                self.wfile.write(part[start : start + max(1, at // 10)])
                time.sleep(0.1)
        else:
            self.wfile.write(part)
            if kind == "length":
                self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _json(self, document: Any) -> None:
        self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        own = {"X-Error-Code": code} if code else {}
        self._send(status, b"", {**own, "X-Error-Message": message, **(headers or {})})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.body:
            self.wfile.write(data)


def _entry(name: str, data: bytes, checksums: bool) -> dict[str, Any]:
    """An entry of the tree endpoint."""
    large = len(data) >= LFS
    entry: dict[str, Any] = {
        "type": "file", "path": name, "size": len(data), "oid": pointer_id(data) if large else blob_id(data),
    }  # fmt: skip
    if large:
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 135}
    return entry if checksums else {**entry, "oid": "", "lfs": None}


def _sibling(name: str, data: bytes, checksums: bool) -> dict[str, Any]:
    """An entry of the model info."""
    sibling: dict[str, Any] = {"rfilename": name, "size": len(data)}
    if not checksums:
        return sibling
    if len(data) >= LFS:
        sha = hashlib.sha256(data).hexdigest()
        return {
            **sibling,
            "blobId": pointer_id(data),
            "lfs": {"sha256": sha, "size": len(data), "pointerSize": 135},
        }
    return {**sibling, "blobId": blob_id(data)}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up: some are killed on purpose."""


@contextmanager
def serve(repositories: dict[str, Repository], certificate: Path | None = None) -> Iterator[Hub]:
    """Serve until the block ends; over TLS with a file that holds a certificate and its key."""
    hub = Hub("", repositories)
    handler = type("Handler", (_Handler,), {"hub": hub, "lock": threading.Lock()})
    server = _Server(("127.0.0.1", 0), handler)
    hub.url = f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def environment(hub_url: str, home: Path, **more: str) -> dict[str, str]:
    """Variables for a child process that asks this hub, with a cache of its own and no token of this machine."""
    return {
        "HF_ENDPOINT": hub_url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "MPSPROBE_CACHE": str(home / "mpsprobe"),
        **more,
    }
