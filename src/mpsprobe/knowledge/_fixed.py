"""From which torch release on a finding of `explain` does not happen any more."""

from __future__ import annotations

from mpsprobe.errors import UsageError
from mpsprobe.knowledge import environment, ops
from mpsprobe.knowledge.history import OpHistory, dtype_first_good, library_op
from mpsprobe.knowledge.messages import Cause, Found


def fixed(hit: Found, history: OpHistory | None, dtype: str, torch: str, macos: str) -> tuple[str, str]:
    """Return the release that ends the finding (empty: none is known), and a sentence that says so."""
    message = hit.message
    backend = hit.values.get("backend", "MPS")
    if backend != "MPS":
        return _fixed_backend(hit.values["op"], backend)
    if message.fixed:
        return message.fixed, f"torch {message.fixed} and newer do not raise it."
    if message.cause in (Cause.MISSING_OP, Cause.FALLBACK) and "op" in hit.values:
        return _fixed_op(history, hit.values["op"], torch, message.cause is Cause.FALLBACK)
    if message.id == "dtype-not-on-mps" and dtype:
        return _fixed_dtype(dtype)
    if message.id == "macos-too-old":
        return "", environment.macos_allows(torch, macos).message if torch and macos else ""
    if message.id == "no-wheel":
        wanted = hit.values.get("torch", "")
        return "", _wheels_of(wanted) if wanted and is_known(wanted) else ""
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
    """For SparseMPS and SparseCsrMPS: kernels that are registered under that key."""
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
    gate = f" on macOS {needs} and newer" if needs else ""
    return first, f"{dtype} tensors exist on MPS from torch {first} on{gate}."


def _fixed_text(last: str) -> tuple[str, str]:
    wheels = [version for entry in environment.releases() for version in entry.commits]
    later = wheels[wheels.index(last) + 1 :]
    if not later:
        return "", f"torch {last}, the newest we know, still raises it."
    return later[0], f"The text is gone from torch {later[0]} on."


def _wheels_of(torch: str) -> str:
    return f"torch {torch} has arm64 wheels for Python {', '.join(environment.pythons(torch))}. " + (
        "Wheels for Intel Macs exist for it."
        if environment.intel(torch).ok
        else "It has none for Intel Macs."
    )


def is_known(torch: str) -> bool:
    """Whether the op table has that release."""
    try:
        ops.resolve_release(torch)
    except UsageError:
        return False
    return True
