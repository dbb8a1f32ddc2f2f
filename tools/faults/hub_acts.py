"""Faults of the hub, the disk and other processes that take more than one download to play.

Each public function plays one of them, and returns what is wrong with the outcome, or `""`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.support.hub_server import COMMIT, TOKEN, serve

from faults.hub_play import WEIGHTS, Play, repository

OTHER = "b" * 40


def _begun(play: Play) -> tuple[subprocess.Popen[str], int]:
    """Start a download, and return it with the number of bytes that have arrived once there is 1 MB."""
    first = play.start()
    until = time.monotonic() + 60
    while (not play.partial.exists() or play.partial.stat().st_size < 1_000_000) and time.monotonic() < until:
        time.sleep(0.05)
    return first, play.partial.stat().st_size if play.partial.exists() else 0


def _resumed(play: Play, process: subprocess.Popen[str] | None = None) -> str:
    """Return what is wrong with a download that resumes a partial one; `""` for nothing.

    Args:
        play: The state of the situation.
        process: The download, if it was started already; None to start one.
    """
    there = play.partial.stat().st_size if play.partial.exists() else 0
    if not there:
        return "nothing was kept"
    wrong = play.finish(process or play.start(), "whole")
    ranges = [r for _, path, r in play.hub.requests if play.repo in path and r and r.endswith("-")]
    beyond = [r for r in ranges if int(r.removeprefix("bytes=").removesuffix("-")) >= min(there, 1_000_000)]
    return wrong or ("" if beyond else "began anew")


def killed_and_resumed(play: Play) -> str:
    """Kill a download halfway, and start it again; the second one must resume."""
    first, _ = _begun(play)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    return _resumed(play)


def interrupted_and_resumed(play: Play) -> str:
    """Interrupt a download halfway as Ctrl-C does, and start it again; the second one must resume."""
    first, _ = _begun(play)
    os.killpg(first.pid, signal.SIGINT)
    return play.finish(first, "interrupted", exits=5, limit_s=20) or _resumed(play)


def first_of_two_killed(play: Play) -> str:
    """Kill the process that downloads while another one waits for its lock; the other one must resume."""
    first, _ = _begun(play)
    second = play.start()
    time.sleep(1.5)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    return _resumed(play, second)


def two_at_once(play: Play) -> str:
    """Start two downloads at once; the weights must be transferred only once."""
    both = [play.start(), play.start()]
    wrong = [play.finish(one, "whole") for one in both]
    asked = [
        path
        for method, path, r in play.hub.requests
        if method == "GET" and f"/cdn/file?repo={play.repo}&" in path and WEIGHTS in path and r is None
    ]
    return next(filter(None, wrong), "" if len(asked) == 1 else f"fetched {len(asked)} times")


_HOLD = """
import sys, time
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(90)
"""


def locked(play: Play) -> str:
    """Hold the lock of the weights in another process, which the error must name, then release it."""
    lock = play.folder / "hf" / "hub" / ".locks" / play.blob.parents[1].name / f"{play.blob.name}.lock"
    lock.parent.mkdir(parents=True)
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(lock)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        wrong = play.finish(play.start(), rf"held by process {holder.pid} \(.*running since")
        holder.kill()
    return wrong or play.finish(play.start(), "whole")


def disk_full(play: Play) -> str:
    """Download to a tmpfs of 2 MB: first the preflight must refuse it, then the disk fills on the way.

    The second time the preflight is made to see free space.
    """
    small = play.folder / "hf"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], check=False).returncode:
        return "not tried: no tmpfs can be mounted here"
    try:
        wrong = play.finish(play.start(), r"\d.* to download .* has .* free\. Free .* or set HF_HOME")
        # another process fills the disk after the preflight has seen room
        roomy = "import shutil; shutil.disk_usage = lambda _: type('U', (), {'free': 1 << 40})\n"
        return wrong or play.finish(
            play.start(before=roomy),
            r"the disk of .* is full at byte [\d,]+ of [\d,]+\. Free .*B, or set HF_HOME",
        )
    finally:
        subprocess.run(["umount", str(small)], check=False)


def not_writable(play: Play) -> str:
    """Download into a cache that cannot be written: a read-only file system, or no permission if not root."""
    cache = play.folder / "hf" / "hub"
    cache.mkdir(parents=True)
    if os.geteuid() != 0:
        cache.chmod(0o500)
        return play.finish(play.start(), "cannot be written")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(cache)], check=False).returncode:
        return "not tried: no read-only disk can be mounted here"
    try:
        return play.finish(play.start(), r"cannot be written: Read-only file system.*set HF_HOME")
    finally:
        subprocess.run(["umount", str(cache)], check=False)


def cache_is_a_file(play: Play) -> str:
    """Download with a file in the place of the cache's folder."""
    (play.folder / "hf").mkdir()
    (play.folder / "hf" / "hub").write_text("in the way")
    return play.finish(play.start(), r"hf/hub.*(Not a directory|File exists).*HF_HOME")


def offline_partial(play: Play) -> str:
    """Use a cache that lacks the weights without the hub; the message must name them."""
    wrong = play.finish(play.start(), "whole")
    play.blob.unlink()
    return wrong or play.finish(play.start(offline=True), rf"1 files of commit {COMMIT[:12]}.*{WEIGHTS}")


def bit_rot(play: Play) -> str:
    """Flip a bit of the weights after the download, with a new modification time; only they must be fetched again."""
    wrong = play.finish(play.start(), "whole")
    data = bytearray(play.blob.read_bytes())
    data[1_000_000] ^= 1
    play.blob.write_bytes(data)
    before = len(play.hub.requests)
    wrong = wrong or play.finish(play.start(), "whole")
    again = {
        path.rpartition("/")[2]
        for _, path, r in play.hub.requests[before:]
        if f"{play.repo}/resolve/" in path and r is None
    }
    return wrong or ("" if again == {WEIGHTS} else f"fetched again: {sorted(again)}")


def wrong_beginning(play: Play) -> str:
    """Leave a partial file that begins with other bytes than the complete one; the result must be complete."""
    play.blob.parent.mkdir(parents=True)
    play.blob.with_name(f"{play.blob.name}.incomplete").write_bytes(b"x" * 2_000_000)
    return play.finish(play.start(), "whole")


def moved(play: Play) -> str:
    """Download while the branch moves; the result must hold the files of one commit."""
    wrong = play.finish(play.start(), "whole")
    return wrong or (
        "" if play.hub.repositories[play.repo].refs["main"] == OTHER else "the branch did not move"
    )


def _damaged(play: Play, spoil: Callable[[], object], *, again: set[str] | None = None) -> str:
    """Download, damage the cache with `spoil` and download again; return what is wrong with the outcome.

    Args:
        play: The state of the situation.
        spoil: A function that damages the cache.
        again: The names of the files that must be fetched again; None for any.
    """
    wrong = play.finish(play.start(), "whole")
    if wrong:
        return wrong
    spoil()
    before = len(play.hub.requests)
    wrong = play.finish(play.start(), "whole")
    fetched = {
        path.split("?")[0].rpartition("/")[2]
        for method, path, r in play.hub.requests[before:]
        if method == "GET" and f"{play.repo}/resolve/" in path and (r is None or r.endswith("-"))
    }
    return wrong or ("" if again is None or fetched == again else f"fetched again: {sorted(fetched)}")


def blob_empty(play: Play) -> str:
    """Empty the blob of the weights; only they must be fetched again."""
    return _damaged(play, lambda: play.blob.write_bytes(b""), again={WEIGHTS})


def blob_short(play: Play) -> str:
    """Truncate the blob of the weights; only they must be fetched again."""
    return _damaged(play, lambda: os.truncate(play.blob, 1_000_000), again={WEIGHTS})


def blob_gone(play: Play) -> str:
    """Remove the blob of the weights, so that its link is broken; only they must be fetched again."""
    return _damaged(play, play.blob.unlink, again={WEIGHTS})


def link_elsewhere(play: Play) -> str:
    """Point the link of the weights to another file; it must be corrected without fetching."""

    def spoil() -> None:
        link = play.cache / "snapshots" / COMMIT / WEIGHTS
        link.unlink()
        link.symlink_to("/etc/hostname")

    return _damaged(play, spoil, again=set())


def snapshot_gone(play: Play) -> str:
    """Remove the commit's folder, but not the blobs; nothing must be fetched again."""
    return _damaged(play, lambda: shutil.rmtree(play.cache / "snapshots"), again=set())


def lock_left(play: Play) -> str:
    """Leave a lock file that no process holds, as a killed process does; the download must go on."""
    lock = play.cache.parent / ".locks" / play.cache.name / f"{play.blob.name}.lock"
    lock.parent.mkdir(parents=True)
    lock.touch(mode=0o600)
    return play.finish(play.start(), "whole")


def lock_is_a_folder(play: Play) -> str:
    """Put a folder in place of the lock file; the error must name it."""
    (play.cache.parent / ".locks" / play.cache.name / f"{play.blob.name}.lock").mkdir(parents=True)
    return play.finish(play.start(), r"\.lock.*Is a directory.*HF_HOME")


_NO_LINKS = """
import os
def _refuse(*arguments, **options):
    raise OSError(95, "Operation not supported")
os.symlink = _refuse
"""


def no_links(play: Play) -> str:
    """Download twice to a disk without symbolic links; the second time nothing may be fetched."""
    return _twice(play, _NO_LINKS)


def _twice(play: Play, patch: str = "") -> str:
    wrong = play.finish(play.start(before=patch), "whole")
    before = len(play.hub.requests)
    wrong = wrong or play.finish(play.start(before=patch), "whole")
    wrong = wrong or play.finish(play.start(offline=True, before=patch), "whole")
    fetched = [
        r
        for method, path, r in play.hub.requests[before:]
        if method == "GET" and "/resolve/" in path and play.repo in path and r is None
    ]
    return wrong or ("" if not fetched else "fetched again")


@contextlib.contextmanager
def _exfat(play: Play) -> Iterator[bool]:
    """Mount an exFAT volume, which has neither case nor links, in place of the cache; yield whether that worked."""
    image, there, device = play.folder / "volume", play.folder / "hf", ""
    there.mkdir()
    with image.open("wb") as file:
        file.truncate(2 << 30)  # sparse; a download leaves 1 GB to spare
    try:
        quiet: dict[str, Any] = {"capture_output": True, "text": True, "check": True}
        subprocess.run(["mkfs.exfat", str(image)], **quiet)
        device = subprocess.run(["losetup", "--find", "--show", str(image)], **quiet).stdout.strip()
        subprocess.run(["mount.exfat-fuse", device, str(there)], **quiet)
    except (OSError, subprocess.CalledProcessError):
        yield False
    else:
        yield True
        subprocess.run(["umount", str(there)], check=False)
    finally:
        if device:
            subprocess.run(["losetup", "--detach", device], check=False)


_NO_EXFAT = "not tried: no exFAT volume can be mounted here (packages exfat-fuse and exfatprogs, as root)"


def case_on_exfat(play: Play) -> str:
    """Download files whose names differ only in case to an exFAT volume, where they would be one file.

    Returns:
        What went wrong, empty for nothing, or that no exFAT volume can be mounted here.
    """
    with _exfat(play) as mounted:
        return play.finish(play.start(), play.situation.ends) if mounted else _NO_EXFAT


def plain_on_exfat(play: Play) -> str:
    """Download twice to an exFAT volume and use it offline; nothing may be fetched the second time."""
    with _exfat(play) as mounted:
        return _twice(play) if mounted else _NO_EXFAT


def read_only_and_whole(play: Play) -> str:
    """Use a complete cache on a read-only mount, with the hub and without."""
    wrong = play.finish(play.start(), "whole")
    there, other = play.folder / "hf", play.folder / "writable"
    other.mkdir()
    if (
        wrong
        or subprocess.run(["mount", "--bind", "-o", "ro", str(there), str(there)], check=False).returncode
    ):
        return wrong or "not tried: nothing can be mounted read-only here"
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(there)], check=True)
        return play.finish(play.start(), "whole") or play.finish(play.start(offline=True), "whole")
    finally:
        subprocess.run(["umount", str(there)], check=False)


def offline_whole(play: Play) -> str:
    """Use a complete cache offline; the hub must get no request."""
    wrong = play.finish(play.start(), "whole")
    before = len(play.hub.requests)
    wrong = wrong or play.finish(play.start(offline=True), "whole")
    asked = [path for _, path, _ in play.hub.requests[before:] if play.repo in path]
    return wrong or ("" if not asked else "the hub was asked")


def offline_damaged(play: Play) -> str:
    """Use a cache with damaged weights offline; the message must name them."""
    wrong = play.finish(play.start(), "whole")
    if not wrong:
        data = bytearray(play.blob.read_bytes())
        data[7_000] ^= 1
        play.blob.write_bytes(data)
    return wrong or _no_blob_check(play, play.start(offline=True), rf"damaged: \['{WEIGHTS}'\]")


def _no_blob_check(play: Play, process: subprocess.Popen[str], ends: str) -> str:
    """Return what is wrong with an outcome; `""` for nothing, or for a damaged file that is left in its place."""
    wrong = play.finish(process, ends)
    return "" if wrong == "a damaged file was put into place" else wrong


def hub_offline(play: Play) -> str:
    """Request a repository that is not cached while HF_HUB_OFFLINE forbids requests; the hub must get none."""
    wrong = play.finish(play.start(HF_HUB_OFFLINE="1"), "not in the cache, and the hub is not asked")
    asked = [path for _, path, _ in play.hub.requests if play.repo in path]
    return wrong or ("" if not asked else "the hub was asked")


def tag_gone(play: Play) -> str:
    """Remove a tag from the hub after its download; it must be an error online, and found in the cache offline."""
    wrong = play.finish(play.start(revision="v1"), "whole")
    play.hub.repositories[play.repo].refs.pop("v1")
    wrong = wrong or play.finish(play.start(revision="v1"), "404: there is no revision v1")
    return wrong or play.finish(play.start(offline=True, revision="v1"), "whole")


def with_token(play: Play) -> str:
    """Fetch a private repository with its owner's token, which the server refuses on its host of large files."""
    return play.finish(play.start(HF_TOKEN=TOKEN), "whole")


def nobody_listens(play: Play) -> str:
    """Request an address on which no server listens."""
    return play.finish(play.start(HF_ENDPOINT="http://127.0.0.1:9"), "127.0.0.1:9 cannot be made")


def plain_behind_https(play: Play) -> str:
    """Request a server without TLS by https."""
    return play.finish(
        play.start(HF_ENDPOINT=play.hub.url.replace("http:", "https:")), "speaks no TLS.*http://"
    )


def proxy_refuses(play: Play) -> str:
    """Download through a proxy that requires a password, by http and by https."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True, kwargs={"poll_interval": 0.05}).start()
        address = f"http://127.0.0.1:{proxy.server_address[1]}"
        wrong = play.finish(
            play.start(HF_ENDPOINT="http://hub.invalid", HTTP_PROXY=address, http_proxy=address, NO_PROXY=""),
            "proxy answers 407.*HTTPS_PROXY",
        )
        wrong = wrong or play.finish(
            play.start(
                HF_ENDPOINT="https://hub.invalid", HTTPS_PROXY=address, https_proxy=address, NO_PROXY=""
            ),
            "proxy.*HTTPS_PROXY",
        )
        proxy.shutdown()
    return wrong


class _Proxy(socketserver.StreamRequestHandler):
    """A proxy that answers every request with 407."""

    def handle(self) -> None:
        """Read one request up to its empty line, and refuse it."""
        while self.rfile.readline().strip():
            pass
        self.wfile.write(
            b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=x\r\n"
            b"Content-Length: 0\r\nConnection: close\r\n\r\n"
        )


def unknown_certificate(play: Play) -> str:
    """Request a server whose certificate is self-signed."""
    pem = play.folder / "self.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(pem), "-out", str(pem), "-days", "2",
         "-subj", "/CN=127.0.0.1"],
        capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode:
        return "not tried: there is no openssl here"
    with serve({play.repo: repository()}, pem) as hub:
        return play.finish(
            play.start(HF_ENDPOINT=hub.url), "certificate of https://.* is not accepted.*SSL_CERT_FILE"
        )


def incomplete_too_long(play: Play) -> str:
    """Leave a partial file that is longer than the complete one; the result must be complete."""
    play.blob.parent.mkdir(parents=True)
    play.partial.write_bytes(b"x" * (len(play.source.files[WEIGHTS]) + 9))
    return play.finish(play.start(), "whole")
