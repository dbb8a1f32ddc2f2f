"""A Hugging Face Hub on localhost: the endpoints that huggingface_hub's client calls, over real HTTP."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "a" * 40


@dataclass
class Repository:
    """Files of one repository, and how the hub treats those who ask.

    `cut_after` breaks off the first download of a file after so many bytes, as a lost connection does.
    """

    files: dict[str, bytes]
    gated: bool = False
    cut_after: dict[str, int] = field(default_factory=dict)


@dataclass
class Hub:
    """The server's address, its repositories, and the requests it saw."""

    url: str
    repositories: dict[str, Repository]
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)


@contextmanager
def serve(repositories: dict[str, Repository]) -> Iterator[Hub]:
    """Serve until the block ends."""
    hub = Hub("", repositories)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            hub.requests.append((self.command, self.path, self.headers.get("Range")))
            path = self.path.split("?")[0].strip("/")
            if path.startswith("api/models/"):
                self._api(path.removeprefix("api/models/"), body)
                return
            owner_name, _, rest = path.partition("/resolve/")
            revision, _, name = rest.partition("/")
            repository = hub.repositories.get(owner_name)
            if repository is None:
                self._error(401, "RepoNotFound", "Repository not found")
            elif repository.gated:
                self._error(403, "GatedRepo", "Access to this model is restricted")
            elif revision not in ("main", COMMIT):
                self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            elif name not in repository.files:
                self._error(404, "EntryNotFound", "Entry not found")
            else:
                self._file(repository, name, body)

        def _api(self, path: str, body: bool) -> None:
            name, _, rest = path.partition("/revision/")
            repository = hub.repositories.get(name)
            if repository is None:
                self._error(401, "RepoNotFound", "Repository not found")
                return
            if rest and rest not in ("main", COMMIT):
                self._error(404, "RevisionNotFound", f"Invalid rev id: {rest}")
                return
            self._json(
                {
                    "_id": "1",
                    "id": name,
                    "modelId": name,
                    "sha": COMMIT,
                    "private": False,
                    "gated": "manual" if repository.gated else False,
                    "tags": [],
                    "downloads": 0,
                    "likes": 0,
                    "siblings": [
                        {"rfilename": file, "size": len(data)} for file, data in repository.files.items()
                    ],
                },
                body,
            )

        def _file(self, repository: Repository, name: str, body: bool) -> None:
            data = repository.files[name]
            start = 0
            given = self.headers.get("Range")
            if given:
                start = int(given.removeprefix("bytes=").split("-")[0])
            cut = repository.cut_after.pop(name, None) if body else None
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Accept-Ranges", "bytes")
            self.end_headers()
            if body:
                self.wfile.write(data[start : start + cut] if cut is not None else data[start:])
                if cut is not None:
                    self.wfile.flush()
                    self.close_connection = True
                    self.connection.close()

        def _json(self, document: Any, body: bool) -> None:
            data = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

        def _error(self, status: int, code: str, message: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", message)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
