"""Explain a pasted error or log: the op, the cause, the release that fixes it, the workaround, and the line.

`explain` joins the messages found in the text with the op table, the environment rules and the advisories. Fields
that cannot be determined stay empty, and an unknown text gives no findings.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import msgspec
from msgspec import structs
from packaging.version import InvalidVersion, Version

from mpsprobe.errors import UsageError
from mpsprobe.knowledge import _graphs, _installation, _pasted, advisories, environment, ops
from mpsprobe.knowledge._excerpts import excerpt as excerpt_of
from mpsprobe.knowledge._pasted import Frame, macos_version
from mpsprobe.knowledge.advisories import Advisory, Symptom
from mpsprobe.knowledge.check_messages import with_checks
from mpsprobe.knowledge.error_texts import Cause, TextMatch, find
from mpsprobe.knowledge.history import OpHistory, dtype_first_good, dtype_name, library_op, op_history

#: A text up to this length may come from a terminal that broke its lines; a longer one comes from a file.
_PASTED = 200_000

#: Lines of `collect_env` and pip that state versions.
_TORCH_LINE = re.compile(
    r"(?:PyTorch version: |\btorch==|\bpytorch[ =]+|\btorch +|\bTorch[ :]+v?)"
    r"(?P<version>[12]\.\d+(?:\.\d+)?\w*(?:\.dev\d+)?)\b",
)
#: Lines of an issue's environment block, which win over any other version in the text.
_TORCH_ENVIRONMENT = re.compile(r"PyTorch version: (?P<version>[12]\.\d+(?:\.\d+)?\w*(?:\.dev\d+)?)\b")
_MACOS_ENVIRONMENT = re.compile(r"\bOS: *mac ?OS *(?P<version>\d+(?:\.\d+)*)", re.IGNORECASE)
_MACOS_LINE = re.compile(
    r"\bmac ?OS[ :-]+(?:\w+ )?(?P<version>1[0-9]\.\d+(?:\.\d+)?|2[6-9]\.\d+(?:\.\d+)?)\b", re.IGNORECASE
)

#: Words before a version of macOS that make it a minimum.
_MINIMUM = re.compile(
    r"(?:\b(?:added|supported|available|fixed|introduced|native(?:ly)?|lower|older|earlier|newer|later)\s+(?:in|on|from|with|than|since)"
    r"|\b(?:starting\s+from|before|since|requires?|needs?|at\s+least|or\s+above))\s+$",
    re.IGNORECASE,
)

#: The greatest distance between two halves of one message, in characters.
_ONE_EVENT = 400

_SYMPTOMS = {
    Cause.METAL_ASSERTION: {Symptom.ABORT},
    Cause.LLVM: {Symptom.ABORT},
    Cause.CRASH: {Symptom.ABORT},
    Cause.HANG: {Symptom.HANG},
    Cause.NUMERICS: {Symptom.NAN, Symptom.WRONG},
    Cause.OUT_OF_MEMORY: {Symptom.LEAK},
}


class Explained(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One problem that was found in a text, with its cause and its fix.

    Attributes:
        message: The id of the message in `messages.toml`.
        cause: The kind of cause.
        severity: `abort`, `error` or `warning`.
        excerpt: The matching part of the text, as one line.
        line: The line of the text where it begins, from 1.
        count: The number of times that it occurs.
        op: The op that it is about, as the op table or its library spells it; "" when the text does not name it.
        dtype: The dtype that it is about; "" when the text does not name it.
        values: The other named parts: sizes, devices, ratios and so on.
        means: What happened.
        fix: What to do.
        releases: The releases whose wheels hold this text, such as `2.1.0 to 2.7.1`; "" when unknown.
        fixed_in: The first torch release in which it no longer happens; "" when unknown, or when there is none.
        fixed: The same as a sentence, which also says that no release fixes it; "" when nothing is known.
        fallback: Whether PYTORCH_ENABLE_MPS_FALLBACK=1 helps: `yes`, `no` or "" (does not apply).
        fallback_why: The reason why it helps or does not help; "" when there is none to give.
        frame: The innermost frame of the user's or the model's code; None when the stack has none or there is no
            stack.
        raised_in: The innermost frame of the stack; None without a stack.
        advisories: The title of each advisory that fits, by its id.
        links: The sources of the message.
    """

    message: str
    cause: Cause
    severity: str
    excerpt: str
    line: int
    count: int = 1
    op: str = ""
    dtype: str = ""
    values: dict[str, str] = {}
    means: str
    fix: str
    releases: str = ""
    fixed_in: str = ""
    fixed: str = ""
    fallback: str = ""
    fallback_why: str = ""
    frame: Frame | None = None
    raised_in: Frame | None = None
    advisories: dict[str, str] = {}
    links: tuple[str, ...] = ()


class Explanation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that was found in a text.

    Attributes:
        findings: The finding that ended the program (the last error) first, then the others in their order.
        torch: The torch release that the findings were judged by; "" when unknown.
        torch_from: Where the release was found: `option`, `commit` (quoted by the error), `log` or "".
        macos: The macOS version that the findings were judged by; "" when unknown.
        macos_from: Where the macOS version was found: `option`, `log` or "".
        too_old: The release that was given or that the text states, where it is older than all known ones and
            therefore not used; else "".
    """

    findings: tuple[Explained, ...]
    torch: str = ""
    torch_from: str = ""
    macos: str = ""
    macos_from: str = ""
    too_old: str = ""


def explain(text: str, torch: str | None = None, macos: str | None = None) -> Explanation:
    """Explain an error, a warning or a whole log.

    Args:
        text: The text as pasted, of any length.
        torch: The release that wrote it; None to read it from the text, if it is there.
        macos: The version of macOS; None to read it from the text, if it is there.

    Raises:
        UsageError: `torch` or `macos` is not a version, or is a release newer than all known ones.
    """
    clean = _pasted.plain(text)
    stated = _stated(clean)
    old = torch or stated
    too_old = old if old and _is_older(old) else ""
    if too_old:
        torch = None
    if torch is not None:
        ops.resolve_release(torch)
    if macos is not None:
        macos_version(macos)
    found = _events(with_checks(clean, find(clean)), clean)
    if not found and len(clean) < _PASTED:  # a terminal breaks long lines inside words too
        clean = clean.replace("\n", "")
        stated = stated or _stated(clean)
        found = _events(with_checks(clean, find(clean)), clean)
    if not found:
        given = ("option" if torch else "", "option" if macos else "")
        return Explanation((), torch or "", given[0], macos or "", given[1], too_old)
    release, release_from = _torch_of(stated, found, torch)
    system, system_from = _macos_of(clean, macos)

    first: dict[tuple[object, ...], TextMatch] = {}
    counts: Counter[tuple[object, ...]] = Counter()
    for hit in found:
        key = (hit.message.id, *sorted(hit.values.items()))
        first.setdefault(key, hit)
        counts[key] += 1
    findings = [_finding(hit, counts[key], clean, release, system) for key, hit in first.items()]
    findings = _merged(findings)
    return Explanation(_primary_first(findings), release, release_from, system, system_from, too_old)


def _events(found: list[TextMatch], text: str) -> list[TextMatch]:
    """Return one finding for each event: halves of a message are joined, consequences and harmless notes left out."""
    if any(not hit.message.aftermath and hit.message.severity != "warning" for hit in found):
        found = [hit for hit in found if not hit.message.aftermath and not hit.message.is_harmless_note]
    end = next((hit for hit in found if hit.message.aftermath), None)  # of several, the first says most
    found = [hit for hit in found if not hit.message.aftermath or hit is end]
    kept: list[TextMatch] = []
    for hit in found:
        before = kept[-1] if kept else None
        same = before is not None and before.message is hit.message and hit.start - before.end < _ONE_EVENT
        if same and before is not None and bool(before.values) != bool(hit.values):
            kept[-1] = before if before.values else hit
            continue
        if (
            same
            and before is not None
            and "\n" not in text[before.end : hit.start]
            and not _differ(before, hit)
        ):
            kept[-1] = max(before, hit, key=lambda one: len(one.values))
            continue
        kept.append(hit)
    return kept


def _differ(one: TextMatch, other: TextMatch) -> bool:
    """Return whether two findings of one message have different values for a name, so that they are two events."""
    return any(other.values.get(name, value) != value for name, value in one.values.items())


def _merged(findings: list[Explained]) -> list[Explained]:
    """Return the findings without those that repeat another's answer for other values: they are counted with it."""
    first: dict[tuple[str, ...], Explained] = {}
    for finding in findings:
        key = (finding.op, finding.dtype, finding.means, finding.fix, finding.fixed, finding.fallback)
        known = first.get(key)
        first[key] = structs.replace(known, count=known.count + finding.count) if known else finding
    return list(first.values())


def _primary_first(findings: Iterable[Explained]) -> tuple[Explained, ...]:
    ordered = list(findings)
    fatal = [finding for finding in ordered if finding.severity != "warning"]
    if fatal:
        ordered.remove(fatal[-1])
        ordered.insert(0, fatal[-1])
    return tuple(ordered)


def _torch_of(stated: str, found: list[TextMatch], given: str | None) -> tuple[str, str]:
    if given is not None:
        return given, "option"
    for hit in found:
        version = environment.release_of_commit(hit.values.get("commit", ""))
        if version:
            return version, "commit"
    return (stated, "log") if stated and _is_known(stated) else ("", "")


def _stated(text: str) -> str:
    """Return the torch release that a text states; empty when it states none."""
    named = _TORCH_ENVIRONMENT.search(text) or _TORCH_LINE.search(text)
    return named["version"] if named else ""


def _is_older(version: str) -> bool:
    """Return whether a release is older than the oldest one with data."""
    try:
        return Version(version).release[:2] < Version(ops.releases()[0]).release[:2]
    except InvalidVersion:
        return False


def _macos_of(text: str, given: str | None) -> tuple[str, str]:
    if given is not None:
        return given, "option"
    named = _MACOS_ENVIRONMENT.search(text)
    if named is None:
        # "supported on macOS 14.0+" and "has been added in macOS 13.3" name a minimum, not the machine's version
        others = (
            one
            for one in _MACOS_LINE.finditer(text)
            if not text.startswith("+", one.end())
            and not _MINIMUM.search(text[max(one.start() - 40, 0) : one.start()])
        )
        named = next(others, None)
    return (named["version"], "log") if named else ("", "")


def _finding(hit: TextMatch, count: int, text: str, torch: str, macos: str) -> Explained:
    message, values = hit.message, dict(hit.values)
    names = tuple(hit.values.values())
    named = values.pop("op", "") or (message.ops[0] if message.ops else "") or _op_of_kernel(values)
    values.pop("commit", None)
    dtype = dtype_name(values.pop("dtype", "") or (message.dtypes[0] if message.dtypes else ""))
    history = op_history(named) if named else None
    resolved = history is not None and history.op.partition(".")[0] == named.partition(".")[0]
    op = history.op if history and resolved and message.ops[:1] != (named,) else named
    fixed_in, fixed_text = _fixed(hit, history, dtype, torch, macos)
    fallback, why = _fallback(history, op, torch) if message.fallback == "op" else (str(message.fallback), "")
    means, fix = _for_values(hit, values)
    if message.id != "missing-op":
        said = "check which torch" in fixed_text
        enough = _pasted.new_enough(
            fix, torch, macos, "" if said else fixed_in, _macos_of_fix(hit, fixed_in, dtype)
        )
        fixed_text = f"{fixed_text} {enough}".strip()
    excerpt = excerpt_of(text, hit.start, hit.end, names)
    links, answer = set(message.links), f"{excerpt} {means} {fix}"
    frames = _pasted.frames_before(text, hit.start) or _pasted.frames_after(text, hit.end)
    return Explained(
        message=message.id,
        cause=message.cause,
        severity=message.severity,
        excerpt=excerpt,
        line=text.count("\n", 0, hit.start) + 1,
        count=count,
        op=op,
        dtype=dtype,
        values=values,
        means=means,
        fix=_fix_op(op, fixed_in, fallback) if message.id == "missing-op" else fix,
        releases=" to ".join(dict.fromkeys(hit.wheels)) if hit.wheels else "",
        fixed_in=fixed_in,
        fixed=fixed_text,
        fallback=fallback,
        fallback_why=why,
        frame=_pasted.user_frame(frames),
        raised_in=frames[-1] if frames else None,
        advisories={
            advisory.id: advisory.title
            for advisory in _fitting(hit, op, torch, macos)
            if links.isdisjoint(advisory.links) or advisories.on_topic(advisory, answer, text, op, dtype)
        },
        links=message.links,
    )


def _for_values(hit: TextMatch, values: dict[str, str]) -> tuple[str, str]:
    """Return the meaning and the fix of a message, more specific where the text names sizes, a wheel or a library."""
    message = hit.message
    if message.cause is Cause.OUT_OF_MEMORY:
        return _contradicted(values) or message.means, message.fix
    if message.id == "ffmpeg-libraries":
        major = _pasted.ffmpeg_major(values["library"], values["release"])
        if major:
            named = f"lib{values['library']}.{values['release']} belongs to FFmpeg {major}"
            return f"{message.means} {named}.", message.fix.replace("MAJOR", major)
    return _graphs.advice(message.id, hit.values) or _installation.advice(
        message.id, values, message.means, message.fix
    )


_UNITS = {"bytes": 1, "B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}
_UNITS |= {f"{unit[0]}iB": size for unit, size in _UNITS.items() if len(unit) == 2}


def _contradicted(values: dict[str, str]) -> str:
    """Explain an out-of-memory message whose own figures do not reach its limit; return an empty text for others."""
    figures = [values.get(name, "") for name in ("allocated", "other", "size", "allowed")]
    sizes = []
    for figure in figures:
        number, _, unit = figure.partition(" ")
        if not number or unit not in _UNITS:
            return ""
        sizes.append(float(number) * _UNITS[unit])
    *used, allowed = sizes
    if sum(used) >= allowed * 0.99:
        return ""
    return (
        f"By its own figures the allocation does not reach the limit ({figures[0]} and {figures[1]} of {figures[3]}, "
        f"{figures[2]} wanted): memory is not short. A virtual machine's GPU, or Metal's largest buffer, refused it."
    )


def _op_of_kernel(values: dict[str, str]) -> str:
    """Return the ATen op that a message calls by a kernel's name (`cumsum`, `linalg.lu_factor`); empty if unknown."""
    kernel = values.get("kernel", "")
    name = f"aten::{kernel.replace('.', '_').removesuffix('_out')}"
    return name if re.fullmatch(r"[\w.]+", kernel) and op_history(name) else ""


def _fix_op(op: str, fixed_in: str, fallback: str) -> str:
    ways = [f'install torch {fixed_in} or newer (pip install -U "torch>={fixed_in}")'] if fixed_in else []
    library = None if fixed_in else library_op(op)
    if library is not None and library.since:
        name, since = library.library, library.since
        ways.append(
            f'install {name} {since} or newer with its torch (pip install -U torch "{name}>={since}")'
        )
    if fallback == "yes":
        ways.append("set PYTORCH_ENABLE_MPS_FALLBACK=1 before Python starts")
    ways.append("move its inputs to the CPU for that op")
    text = "; or ".join(ways)
    return f"{text[0].upper()}{text[1:]}."


def _fallback(history: OpHistory | None, op: str, torch: str) -> tuple[str, str]:
    if history is None:
        known = not op.startswith(("aten::", "mps::"))
        return (
            ("yes", "if the library registered a CPU kernel for it, as torchvision does")
            if known
            else ("", "")
        )
    return history.fallback(ops.resolve_release(torch) if torch else None)


def _fitting(hit: TextMatch, op: str, torch: str, macos: str) -> list[Advisory]:
    """Return the advisories with a source in common, or with the same op and symptom, unless they exclude this Mac."""
    links = set(hit.message.links)
    symptoms = _SYMPTOMS.get(hit.message.cause, set())
    fitting = []
    for advisory in advisories.load_all():
        if torch and advisory.concerns(torch, macos or None, None) is False:
            continue
        same_op = op in advisory.ops or op.partition(".")[0] in advisory.ops
        if links.intersection(advisory.links) or (op and same_op and advisory.symptom in symptoms):
            fitting.append(advisory)
    return fitting


def _fixed(hit: TextMatch, history: OpHistory | None, dtype: str, torch: str, macos: str) -> tuple[str, str]:
    """Return the release that fixes the finding (empty when none is known), and a sentence about it."""
    message = hit.message
    backend = hit.values.get("backend", "MPS")
    if backend != "MPS" and "op" in hit.values:
        return _fixed_backend(hit.values["op"], backend)
    if message.fixed:
        return message.fixed, f"torch {message.fixed} and newer do not raise it."
    if message.cause in (Cause.MISSING_OP, Cause.FALLBACK) and "op" in hit.values:
        return _fixed_op(history, hit.values["op"], torch, message.cause is Cause.FALLBACK)
    if re.fullmatch(r"dtype-\w+-on-mps", message.id) and dtype:
        return _fixed_dtype(dtype)
    if message.id == "macos-too-old":
        return "", environment.macos_allows(torch, macos).message if torch and macos else ""
    if message.id == "no-wheel":
        wanted = hit.values.get("torch", "")
        return "", environment.wheels_of(wanted) if wanted and _is_known(wanted) else ""
    if hit.wheels and not message.reworded:
        return _fixed_text(hit.wheels[1])
    return "", ""


def _fixed_op(history: OpHistory | None, name: str, torch: str, fallback_warning: bool) -> tuple[str, str]:
    if history is None:
        if name.startswith("aten::"):
            return "", f"No release from {ops.releases()[0]} to {ops.releases()[-1]} has an op of that name."
        library = library_op(name)
        if library is None:
            return "", f"{name} is not in PyTorch itself: the library that it comes from decides."
        since = f"MPS kernel since {library.library} {library.since}." if library.since else ""
        return "", f"{since} {library.note}".strip()
    if not history.first_good:
        return "", f"No release up to {ops.releases()[-1]} has it on MPS."
    if history.how == "fallback" and fallback_warning:
        return (
            "",
            "It runs on the CPU by itself in every release: the warning is normal, nothing is old.",
        )
    how = {"native": "native", "composite": "run through other ops", "fallback": "run on the CPU by itself"}
    words = how[history.how]
    if history.oldest:
        older = "" if torch else ", so yours is older"
        text = f"It is {words} in every release from {history.first_good} on{older}."
        text = text if history.how == "native" else text.replace("It is run", "It runs")
    else:
        text = f"First release in which it is {words}: {history.first_good}."
        text = text if history.how == "native" else text.replace("it is run", "it runs")
    if torch and ops.releases().index(ops.resolve_release(torch)) >= ops.releases().index(history.first_good):
        text += f" torch {torch} should have it: check which torch the program imports."
    return history.first_good, text


def _fixed_backend(op: str, backend: str) -> tuple[str, str]:
    """Return the release since which SparseMPS or SparseCsrMPS has a kernel of the op, and a sentence about it."""
    first = ""
    for minor in reversed(ops.releases()):
        if op not in ops.release(minor).sparse.get(backend, ()):
            break
        first = minor
    if not first:
        return "", f"No release up to {ops.releases()[-1]} has a kernel of its own for it under {backend}."
    return first, f"First release with a kernel for {backend}: {first}."


def _fixed_dtype(dtype: str) -> tuple[str, str]:
    first = dtype_first_good(dtype)
    if first is None:
        return "", ""
    if not first:
        return "", f"No release up to {ops.releases()[-1]} has {dtype} on MPS."
    needs = ops.release(first).dtypes.get(dtype, "")
    gate = f" (macOS {needs} and newer)" if needs else ""
    return first, f"{dtype} tensors exist on MPS from torch {first} on{gate}."


def _fixed_text(last: str) -> tuple[str, str]:
    wheels = [version for entry in environment.releases() for version in entry.commits]
    later = wheels[wheels.index(last) + 1 :]
    if not later:
        return "", f"torch {last}, the newest we know, still raises it."
    return later[0], f"The text is gone from torch {later[0]} on."


def _macos_of_fix(hit: TextMatch, fixed_in: str, dtype: str) -> str:
    """Return the first macOS on which a message no longer occurs, with the release that fixes it; empty if unknown."""
    if hit.message.id == "dtype-not-on-mps" and fixed_in:
        return ops.release(fixed_in).dtypes.get(dtype, "")
    return hit.message.macos


def _is_known(torch: str) -> bool:
    """Return whether there is op data for a torch version."""
    try:
        ops.resolve_release(torch)
    except UsageError:
        return False
    return True
