"""The faults of the hub, the network, the disk and other processes that the campaign plays."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable
from typing import Any

from tests.support.hub_server import COMMIT, TOKEN, Fault, Repository, pointer

from faults import hub_acts as acts
from faults.hub_play import WEIGHTS, Situation, api, cdn, files, repository, resolve, weights

INDEX = "model.safetensors.index.json"
#: A byte in the middle of the weights.
AT = 1_500_000
_STALL = {"MPSPROBE_STALL_TIMEOUT": "0.5"}


def _config(kind: str, times: int, **more: Any) -> Callable[[], Repository]:
    return lambda: repository(Fault(kind, "resolve", "config.json", times=times, **more))


def _listing(kind: str, times: int, **more: Any) -> Callable[[], Repository]:
    return lambda: repository(Fault(kind, "api", times=times, **more))


def _text(text: str) -> Callable[[], Repository]:
    return _listing("text", -1, headers={"text": text})


def _redirect(to: str) -> Callable[[], Repository]:
    return lambda: repository(Fault("redirect", "resolve", WEIGHTS, times=-1, headers={"Location": to}))


def _named(name: str) -> Callable[[], Repository]:
    return lambda: repository(listing=lambda info: info["siblings"].append({"rfilename": name, "size": 1}))


def _without_sizes(info: dict[str, Any]) -> None:
    for one in info["siblings"]:
        del one["size"]


def _api_nonsense() -> Repository:
    return repository(Fault("status", "api", times=-1, status=429, headers={"Retry-After": "inf"}))


def _slow() -> Repository:
    return Repository(files(8_000_000), faults=[Fault("slow", "cdn", WEIGHTS, at=2_000_000, skip=1)])


def _shards(named: Iterable[str], there: Iterable[str]) -> dict[str, bytes]:
    """Return the files of a model in shards.

    Args:
        named: The suffixes of the shards that its index names.
        there: The suffixes of the shards that exist.
    """
    index = {"weight_map": {f"w{i}": f"model-{name}.safetensors" for i, name in enumerate(named)}}
    whole = {name: data for name, data in files().items() if name != WEIGHTS}
    shards = {f"model-{name}.safetensors": weights(50_000, i, f"w{i}") for i, name in enumerate(there)}
    return {**whole, **shards, INDEX: json.dumps(index).encode()}


def _indexed(named: Iterable[str], there: Iterable[str]) -> Callable[[], Repository]:
    return lambda: Repository(_shards(named, there))


SITUATIONS = (
    Situation("no-fault", "nothing"),
    Situation("drop", "the connection drops at a byte, three times", cdn("drop", 3, 0, at=AT)),
    Situation(
        "drop-for-ever",
        "the connection always drops at that byte",
        cdn("drop", -1, 0, at=AT),
        r"given up at byte 1,500,000 of",
    ),
    Situation("stall", "the server falls silent at a byte", cdn("stall", 1, 0, at=AT)),
    Situation(
        "stall-for-ever",
        "the server always falls silent",
        cdn("stall", -1, 0, at=AT),
        "sends nothing within the time limit",
    ),
    Situation("truncate", "the file is sent short", cdn("truncate", 1, 0, at=AT)),
    Situation(
        "truncate-for-ever",
        "the file is always sent short",
        cdn("truncate", -1, 0, at=AT),
        "given up at byte 1,500,000",
    ),
    Situation("flip", "a bit flips on the way", cdn("flip", 1, 0, at=AT)),
    Situation(
        "flip-for-ever",
        "a bit always flips",
        cdn("flip", -1, 0, at=AT),
        r"model\.safetensors: 3 times .* sha256",
    ),
    Situation("length-long", "a Content-Length too large", cdn("length", at=99)),
    Situation("more", "bytes behind the end", cdn("more", at=99)),
    Situation("etag", "another ETag", resolve("etag")),
    Situation(
        "no-range",
        "a server that knows no ranges",
        lambda: repository(
            Fault("drop", "cdn", WEIGHTS, at=AT), Fault("no-range", "cdn", WEIGHTS, skip=1, times=-1)
        ),
    ),
    Situation(
        "shift",
        "a range answered with other bytes",
        lambda: repository(
            Fault("drop", "cdn", WEIGHTS, at=AT), Fault("shift", "cdn", WEIGHTS, at=7, skip=1)
        ),
    ),
    Situation(
        "401", "a repository that is private", lambda: repository(private=True), "401.*private.*HF_TOKEN"
    ),
    Situation(
        "401-token",
        "a token that is not valid",
        ends="401: the token is not valid.*HF_TOKEN",
        env={"HF_TOKEN": "hf_no"},
    ),
    Situation(
        "403-gated",
        "a licence not accepted, with a token",
        lambda: repository(gated=True),
        r"403: the repository is gated.*Accept the licence at http",
        {"HF_TOKEN": TOKEN},
    ),
    Situation(
        "401-gated",
        "a licence not accepted, without a token",
        lambda: repository(gated=True),
        "gated, and no token.*Accept",
    ),
    Situation("403", "forbidden", resolve("status", status=403), "403: .*may not read it.*HF_TOKEN"),
    Situation(
        "404-file",
        "a file that is gone",
        resolve("status", status=404),
        r"model\.safetensors: the hub answers 404",
    ),
    Situation(
        "404-repo",
        "a repository that is not there",
        lambda: Repository(commits={}, refs={"main": "c" * 40}),
        "no revision|404|names no commit",
    ),
    Situation("416", "416 once", cdn("status", status=416)),
    Situation("416-for-ever", "416 for ever", cdn("status", -1, status=416), "416"),
    Situation(
        "429", "429, to wait 1 s", resolve("status", 1, skip=1, status=429, headers={"Retry-After": "1"})
    ),
    Situation(
        "429-long",
        "429, to wait 900 s",
        resolve("status", skip=1, status=429, headers={"Retry-After": "900"}),
        "429.*Wait 900 s",
    ),
    Situation(
        "429-api", "429 from the API, to wait 700 s", api(-1, 429, Retry_After="700"), "429.*Wait 700 s"
    ),
    Situation("500", "500 twice", cdn("status", 2)),
    Situation(
        "500-for-ever",
        "500 for one file, for ever",
        cdn("status", -1),
        r"model\.safetensors: the hub answers 500.*later",
    ),
    Situation("503-api", "503 from the API once", api(1, 503)),
    Situation("503-api-for-ever", "503 from the API for ever", api(-1, 503), "answers 503.*later"),
    Situation("loop", "redirects in a circle", resolve("loop"), "circle"),
    Situation(
        "html",
        "a sign-in page in place of the hub",
        lambda: repository(Fault("html", "api", times=-1)),
        "not as the hub does.*sign-in",
    ),
    Situation(
        "move",
        "the branch moves in mid-download",
        lambda: Repository(
            files(), commits={acts.OTHER: files(seed=1)}, faults=[Fault("move", "resolve", skip=1)]
        ),
        act=acts.moved,
    ),
    Situation("no-checksums", "a mirror that states no checksums", lambda: repository(checksums=False)),
    Situation("disk-full", "a disk that is full, or fills up (2 MB tmpfs)", act=acts.disk_full),
    Situation("not-writable", "a cache that cannot be written", act=acts.not_writable),
    Situation("cache-is-a-file", "a file where the cache should be", act=acts.cache_is_a_file),
    Situation(
        "locked",
        "a lock held by another process, then released",
        env={"MPSPROBE_LOCK_TIMEOUT": "2"},
        act=acts.locked,
    ),
    Situation(
        "two-at-once",
        "two processes at once",
        lambda: repository(Fault("slow", "cdn", WEIGHTS, at=2_000_000, skip=2)),
        act=acts.two_at_once,
    ),
    Situation(
        "sigkill",
        "SIGKILL in mid-download, then again",
        lambda: Repository(files(8_000_000), faults=[Fault("slow", "cdn", WEIGHTS, at=2_000_000, skip=1)]),
        act=acts.killed_and_resumed,
    ),
    Situation("wrong-beginning", "an incomplete file of other bytes", act=acts.wrong_beginning),
    Situation("bit-rot", "a bit flips on the disk later", act=acts.bit_rot),
    Situation("offline", "offline with a part of the files", act=acts.offline_partial),
    Situation(
        "trickle",
        "the server sends 20 bytes a second from a byte on",
        cdn("trickle", 1, 0, at=AT),
        env=_STALL,
    ),
    Situation(
        "trickle-for-ever",
        "it always does",
        cdn("trickle", -1, 0, at=AT),
        "sends next to nothing.*STALL",
        _STALL,
    ),
    Situation(
        "dribble",
        "every request breaks after 100 bytes",
        cdn("dribble", -1, at=100),
        r"given up at byte \d+ of .* after 5 tries",
    ),
    Situation("gzip", "a file is packed although nobody asked", cdn("gzip", -1)),
    Situation("broken-gzip", "a file is said to be packed, and is not", cdn("broken-gzip", 2)),
    Situation("broken-gzip-for-ever", "it always is", cdn("broken-gzip", -1), "given up at byte 0"),
    Situation("chunked", "a file comes in chunks, without a Content-Length", cdn("chunked", -1)),
    Situation("html-file", "a page of HTML in place of a file, once", cdn("html")),
    Situation(
        "html-file-for-ever",
        "a page of HTML in place of a file",
        cdn("html", -1),
        "a page of HTML in place of the file.*sign-in",
    ),
    Situation(
        "pointer-sent",
        "a mirror that sends Git LFS pointers",
        cdn("pointer", -1),
        "Git LFS pointer in place of the file.*HF_ENDPOINT",
    ),
    Situation("small-flip", "a bit flips in a small file", _config("flip", 1, at=3)),
    Situation(
        "small-flip-for-ever",
        "a bit always flips in a small file",
        _config("flip", -1, at=3),
        r"config\.json: 3 times .* git blob id",
    ),
    Situation("xet", "answers that name the Xet storage", lambda: repository(xet=True)),
    Situation("gzip-api", "the listing is packed although nobody asked", _listing("gzip", 1)),
    Situation("drop-api", "the listing breaks off", _listing("drop", 1, at=100)),
    Situation(
        "drop-api-for-ever",
        "the listing always breaks off",
        _listing("drop", -1, at=100),
        "connection .* broke",
    ),
    Situation("cut-api", "half of a listing's JSON", _listing("cut", -1), "not as the hub does.*no JSON"),
    Situation("list-api", "JSON that is no object", _text("[]"), "not as the hub does.*no object"),
    Situation("no-commit", "a listing without a commit", _text('{"id": "a/b"}'), "names no commit"),
    Situation(
        "no-files", "a listing without files", _text(json.dumps({"sha": "a" * 40})), "no list of files"
    ),
    Situation("no-sizes", "a listing without sizes", lambda: repository(listing=_without_sizes)),
    Situation(
        "502-html",
        "502 from a proxy, with a page of HTML",
        _listing("status", -1, status=502),
        "answers 502.*later",
    ),
    Situation(
        "511", "511: the network asks to sign in", _listing("status", -1, status=511), "answers 511.*sign in"
    ),
    Situation(
        "407", "407 from the hub's address", resolve("status", status=407), "proxy answers 407.*HTTPS_PROXY"
    ),
    Situation("410", "410 for a file", resolve("status", status=410), "answers 410.*browser"),
    Situation(
        "redirect-file",
        "a redirect to a file of this machine",
        _redirect("file:///etc/passwd"),
        "an address that is none",
    ),
    Situation(
        "redirect-nowhere",
        "a redirect to where nobody listens",
        _redirect("http://127.0.0.1:9/x"),
        "connection to .* cannot be made",
    ),
    Situation(
        "429-date",
        "429, to wait until a date",
        resolve("status", skip=1, status=429, headers={"Retry-After": "Fri, 31 Dec 2100 23:59:59 GMT"}),
        r"429.*Wait 2\d{9} s",
    ),
    Situation(
        "429-ratelimit",
        "429 with the hub's RateLimit header",
        resolve("status", skip=1, status=429, headers={"RateLimit": '"resolvers";r=0;t=600'}),
        "429.*Wait 600 s",
    ),
    Situation("429-nonsense", "429, to wait for nonsense", _api_nonsense, "429.*Wait some minutes"),
    Situation(
        "429-for-ever",
        "429 for ever, to wait 1 s",
        cdn("status", -1, status=429, headers={"Retry-After": "1"}),
        "429.*Wait 1 s",
    ),
    Situation(
        "private-token",
        "a private repository with its owner's token",
        lambda: repository(private=True),
        act=acts.with_token,
    ),
    Situation(
        "bad-token",
        "a token that no header can hold",
        ends="token holds characters.*HF_TOKEN",
        env={"HF_TOKEN": "hf_\u2026"},
    ),
    Situation(
        "disabled",
        "a repository that the hub has disabled",
        lambda: repository(disabled=True),
        "has disabled this repository",
    ),
    Situation(
        "renamed",
        "a repository that was renamed",
        lambda: Repository(renamed_to="org/renamed-new"),
        also={"-new": repository},
    ),
    Situation(
        "pointer-weights",
        "a Git LFS pointer uploaded in place of the weights",
        lambda: Repository({**files(), WEIGHTS: pointer(b"x" * 5000)}),
        "in the repository it is a Git LFS pointer.*owner",
        exits=1,
    ),
    Situation(
        "pointer-small",
        "a Git LFS pointer uploaded in place of a tokenizer",
        lambda: Repository({**files(), "tokenizer.model": pointer(b"x" * 5000)}),
        r"tokenizer\.model: in the repository it is a Git LFS pointer",
    ),
    Situation("climbs", "a file name that climbs out", _named("../../x"), "cannot lie in its folder"),
    Situation("absolute", "an absolute file name", _named("/etc/cron.d/x"), "cannot lie in its folder"),
    Situation(
        "escape", "a file name with an escape sequence", _named("a\x1b[2J"), "cannot lie in its folder"
    ),
    Situation("surrogate", "a file name that is no text", _named("a\udc80"), "cannot lie in its folder"),
    Situation(
        "file-and-folder",
        "a name that is a file and a folder",
        _named("config.json/x"),
        "both as a file and as a folder",
    ),
    Situation(
        "case", "names that differ only in case", lambda: Repository({**files(), "Config.json": b"{}"})
    ),
    Situation(
        "case-exfat",
        "names that differ only in case, on an exFAT volume",
        lambda: Repository({**files(), "Config.json": b"{}"}),
        "are one file on the disk of .* Set HF_HOME to a volume that is case-sensitive",
        act=acts.case_on_exfat,
    ),
    Situation(
        "index-absent",
        "an index that names a shard which is not there",
        _indexed(["a", "b"], ["a"]),
        "names 1 weight files that the repository does not hold",
        exits=1,
    ),
    Situation(
        "index-extra",
        "a shard that the index does not name",
        _indexed(["a"], ["a", "b"]),
        left_out=frozenset({"model-b.safetensors"}),
    ),
    Situation(
        "index-climbs",
        "an index that names a file outside",
        _indexed(["../../a"], ["a"]),
        "names 1 weight files that the repository does not hold",
        exits=1,
    ),
    Situation(
        "index-no-json",
        "an index that is no JSON",
        lambda: Repository({**_shards(["a"], ["a"]), INDEX: b"{" * 400}),
        "does not say which tensor",
        exits=1,
    ),
    Situation(
        "header-beyond",
        "a safetensors header longer than its file",
        lambda: Repository({**files(), WEIGHTS: struct.pack("<Q", 1 << 40) + weights()[8:]}),
        "not a safetensors file, or cut off in its header",
        exits=1,
    ),
    Situation(
        "header-no-json",
        "a safetensors header that is no JSON",
        lambda: Repository({**files(), WEIGHTS: struct.pack("<Q", 5000) + b"x" * 9000}),
        "its header is not JSON",
        exits=1,
    ),
    Situation(
        "header-length",
        "a weight file longer than its header says",
        lambda: Repository({**files(), WEIGHTS: weights() + b"xx"}),
        "the header describes .* the file holds",
        exits=1,
    ),
    Situation(
        "dtype",
        "a dtype that nobody knows",
        lambda: Repository({**files(), WEIGHTS: weights().replace(b"BF16", b"XF16", 1)}),
    ),
    Situation(
        "pickle",
        "weights only as pickles",
        lambda: Repository({"config.json": b"{}", "pytorch_model.bin": b"x" * 5000}),
        "only pickled weights.*Nothing was fetched",
        exits=1,
    ),
    Situation(
        "forget",
        "the branch vanishes in mid-download",
        lambda: repository(Fault("forget", "resolve", WEIGHTS, skip=1)),
    ),
    Situation(
        "vanish",
        "the commit vanishes in mid-download",
        lambda: repository(Fault("vanish", "resolve", WEIGHTS, skip=1)),
        "404: there is no revision.*force-pushed",
    ),
    Situation(
        "tag-gone",
        "a tag that is no longer there",
        lambda: repository(refs={"v1": COMMIT}),
        "no revision v1",
        act=acts.tag_gone,
    ),
    Situation(
        "endpoint",
        "HF_ENDPOINT without https://",
        ends="no address of a web server",
        cli=False,
        env={"HF_ENDPOINT": "huggingface.co"},
    ),
    Situation(
        "endpoint-ftp",
        "HF_ENDPOINT of another kind",
        ends="no address of a web server",
        cli=False,
        env={"HF_ENDPOINT": "ftp://huggingface.co"},
    ),
    Situation(
        "nobody-listens", "HF_ENDPOINT where nobody listens", ends="cannot be made", act=acts.nobody_listens
    ),
    Situation(
        "no-tls", "https:// to a server without TLS", ends="speaks no TLS", act=acts.plain_behind_https
    ),
    Situation(
        "certificate", "a certificate that nobody signed", ends="certificate", act=acts.unknown_certificate
    ),
    Situation("proxy", "a proxy that asks for a password", ends="proxy", act=acts.proxy_refuses),
    Situation(
        "stall-limit",
        "MPSPROBE_STALL_TIMEOUT that is no time",
        ends="MPSPROBE_STALL_TIMEOUT is 'soon'",
        exits=2,
        env={"MPSPROBE_STALL_TIMEOUT": "soon"},
    ),
    Situation(
        "hub-offline", "HF_HUB_OFFLINE with an empty cache", ends="not in the cache", act=acts.hub_offline
    ),
    Situation("offline-whole", "offline with all files", act=acts.offline_whole),
    Situation("offline-damaged", "offline with a damaged file", ends="damaged", act=acts.offline_damaged),
    Situation("blob-empty", "an empty file in the cache", act=acts.blob_empty),
    Situation("blob-short", "a file cut off in the cache", act=acts.blob_short),
    Situation("blob-gone", "a link of the cache that leads nowhere", act=acts.blob_gone),
    Situation("link-elsewhere", "a link of the cache that leads elsewhere", act=acts.link_elsewhere),
    Situation("snapshot-gone", "a cache without the commit's folder", act=acts.snapshot_gone),
    Situation("incomplete-too-long", "an incomplete file that is too long", act=acts.incomplete_too_long),
    Situation("lock-left", "a lock file that nobody holds", act=acts.lock_left),
    Situation(
        "lock-is-a-folder",
        "a folder where a lock should be",
        ends="Is a directory",
        act=acts.lock_is_a_folder,
    ),
    Situation("no-links", "a disk that knows no symbolic links", act=acts.no_links),
    Situation("exfat", "an exFAT volume, used twice and offline", act=acts.plain_on_exfat),
    Situation("read-only-whole", "a cache that is whole and cannot be written", act=acts.read_only_and_whole),
    Situation("sigint", "SIGINT in mid-download, then again", _slow, act=acts.interrupted_and_resumed),
    Situation(
        "first-killed", "two processes at once, and the first is killed", _slow, act=acts.first_of_two_killed
    ),
)
