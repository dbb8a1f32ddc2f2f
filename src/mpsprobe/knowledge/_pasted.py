"""Read what users paste: versions, the many spellings of an op, and logs with colours, boxes and stack frames."""

from __future__ import annotations

import difflib
import functools
import html
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec
from packaging.version import InvalidVersion, Version

from mpsprobe import toml
from mpsprobe.errors import UsageError


def torch_release(text: str) -> Version:
    """Return the release that a torch version belongs to: `2.13.0` for `2.13.0+cpu` and `2.13.0.dev20260424`.

    Raises:
        UsageError: The text is not a version.
    """
    try:
        return Version(Version(text).base_version)
    except InvalidVersion as problem:
        raise UsageError(f"{text!r} is not a torch version.", "Write it like 2.8 or 2.8.0.") from problem


def macos_version(text: str) -> Version:
    """Parse a macOS version such as `14` or `14.4.1`.

    Raises:
        UsageError: The text is not a version.
    """
    try:
        return Version(text)
    except InvalidVersion as problem:
        raise UsageError(f"{text!r} is not a macOS version.", "Write it like 14 or 14.4.1.") from problem


#: Python modules that became prefixes of ATen names: `torch.linalg.svd` is `aten::linalg_svd`.
_PREFIXED = ("fft", "linalg", "special", "sparse")

#: Python modules whose function names are ATen names.
_PLAIN = (
    "torch.nn.functional.",
    "nn.functional.",
    "torch.functional.",
    "torch.Tensor.",
    "torch._C._nn.",
    "torch.",
)


def qualified(op: str) -> str:
    """Return an op's name with its namespace (`aten` where none is given) and without `.default`.

    `aten.add.Tensor`, `torch.ops.aten.add.Tensor` and `add.Tensor` give `aten::add.Tensor`.
    """
    name = op.strip().strip("'\"`").removesuffix("()")
    name = name.removeprefix("torch.ops.").removeprefix("torch._ops.")
    if "::" not in name:
        namespace, dot, rest = name.partition(".")
        name = (
            f"{namespace}::{rest}"
            if dot and namespace in {"aten", "mps", "quantized", "prims"}
            else f"aten::{name}"
        )
    return name.removesuffix(".default")


def below_torch(op: str) -> str:
    """Return the name of a Python function below `torch`: `nn.functional.gelu` for `F.gelu`, `abs` for `torch.abs`."""
    name = op.strip().strip("'\"`").removesuffix("()").removeprefix("torch.")
    return f"nn.functional.{name[2:]}" if name.startswith("F.") else name


def python_name(op: str) -> str | None:
    """Return the ATen name of a Python function: `aten::linalg_svd` for `torch.linalg.svd`; else None."""
    name = op.strip().strip("'\"`").removesuffix("()")
    if name.startswith("F."):
        name = f"torch.{below_torch(name)}"
    for prefix in _PLAIN:
        if name.startswith(prefix) and not name.startswith("torch.ops."):
            name = name.removeprefix(prefix)
            break
    else:
        if name.partition(".")[0] not in _PREFIXED:
            return None
    module, dot, rest = name.partition(".")
    if dot and module in _PREFIXED:
        return f"aten::{module}_{rest}"
    return f"aten::{name}"


def module_functions(op: str) -> tuple[str, ...]:
    """Return the ATen base names that a module of `torch.nn` may call, such as `conv2d` for `torch.nn.Conv2d`.

    For a class that `data/modules.toml` lacks, the names are guessed: its name in snake case, also without `_loss`,
    a number of dimensions or underscores. They need not exist. Empty when `op` is not written as a module.
    """
    name = op.strip().strip("'\"`").removesuffix("()").removeprefix("torch.")
    class_name = name.removeprefix("nn.")
    if not re.fullmatch(r"[A-Z]\w*", class_name):
        return ()
    known = _modules().functions.get(class_name)
    if known is None:
        snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", class_name).lower()
        known = (snake, snake.removesuffix("_loss"), re.sub(r"\d+d$", "", snake), snake.replace("_", ""))
    return tuple(f"aten::{function}" for function in dict.fromkeys(known))


class _ModuleFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    functions: dict[str, tuple[str, ...]]


@functools.cache
def _modules() -> _ModuleFile:
    return toml.load(Path(__file__).parent / "data" / "modules.toml", _ModuleFile)


def base(op: str) -> str:
    """Return an op's name without its overload: `aten::add` for `aten::add.Tensor`."""
    namespace, _, name = op.partition("::")
    return f"{namespace}::{name.partition('.')[0]}"


def suggestions(op: str, known: Collection[str], limit: int = 3) -> list[str]:
    """Return up to `limit` known base names of the same namespace that resemble a misspelt one, best first."""
    wanted = _letters(op)
    namespace = op.partition("::")[0]
    same = (name for name in known if name.partition("::")[0] == namespace)
    by_letters: dict[str, str] = {}
    for name in sorted(same, key=lambda name: ("::_" in name, name)):  # public names before internal ones
        by_letters.setdefault(_letters(base(name)), base(name))
    if wanted in by_letters:
        return [by_letters[wanted]]
    close = difflib.get_close_matches(wanted, by_letters, n=limit, cutoff=0.7)
    return [by_letters[letters] for letters in close]


def _letters(op: str) -> str:
    return re.sub(r"[^a-z0-9]", "", op.partition("::")[2].lower())


def overloads(wanted: str, known: Iterable[str]) -> tuple[str, ...]:
    """Return the known overloads of a base name: functional ones before `out` and Dimname ones, `.Tensor` first."""
    found = [name for name in known if base(name) == wanted]
    return tuple(sorted(found, key=_rarity))


def _rarity(name: str) -> tuple[bool, bool, bool, str]:
    return "imname" in name, name.endswith("out"), not name.endswith(".Tensor"), name


@functools.cache
def opinfo_ops() -> Mapping[str, tuple[str, ...]]:
    """Return the overloads (without `aten::`) that each OpInfo's samples run on the CPU, by `name:variant`."""
    path = Path(__file__).parent / "data" / "ops" / "opinfo.json"
    return msgspec.json.decode(path.read_bytes(), type=dict[str, tuple[str, ...]])


def run_by(function: str) -> tuple[str, ...]:
    """Return the overloads that OpInfo tests of a Python function (`nn.functional.gelu`) run; empty without one."""
    found = {
        op for name, called in opinfo_ops().items() if name.partition(":")[0] == function for op in called
    }
    return tuple(f"aten::{op}" for op in sorted(found))


_ANSI = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_BOX = re.compile(r"[\u2500-\u259f\u2800-\u28ff]")
_QUOTE_MARK = re.compile(r"^[ \t]*(?:(?:>|\|)[ \t]?)+", re.MULTILINE)
#: The loader of macOS 12 puts paths between quote marks; older and newer ones do not.
_QUOTED_PATH = re.compile(r"((?:Library not loaded|Referenced from|Expected in): )'([^'\n]+)'")
_PYTEST_MARK = re.compile(r"^E {2,}", re.MULTILINE)
_PLAIN_CHARACTERS = str.maketrans(
    {
        "\u2018": "'",
        "\u2019": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u00a0": " ",
        "\u200b": None,
        "\ufeff": None,
    }
)

_FRAMES = (
    # Python: File "/x/y.py", line 3, in f, and the code on the next line
    re.compile(
        r'^[ \t]*File "(?P<path>[^"\n]+)", line (?P<line>\d+)(?:,? in (?P<function>[^\n]+))?'
        r"(?:\n[ \t]+(?![ \t]*File \")(?P<code>[^\s^~][^\n]*))?",
        re.MULTILINE,
    ),
    # IPython: File ~/x/y.py:3, in f(...)  and  Cell In[2], line 3, in f(...)
    re.compile(
        r"^[ \t]*(?:File )?(?P<path>[~/.][^\s:()]*\.py):(?P<line>\d+),? in (?P<function>[\w.<>]+)",
        re.MULTILINE,
    ),
    re.compile(
        r"^[ \t]*(?P<path>(?:Cell|Input) In ?\[\d+\]),? line (?P<line>\d+)(?:, in (?P<function>[\w.<>]+))?",
        re.MULTILINE,
    ),
    # a warning: /x/y.py:3: UserWarning: ..., and pytest: tests/test_y.py:3: NotImplementedError
    re.compile(
        r"^[ \t]*(?P<path>[^\s:\"']+\.py):(?P<line>\d+): (?:in (?P<function>\w+)|\w*(?:Warning|Error)\b)",
        re.MULTILINE,
    ),
)
_ARROW = re.compile(r"^-+> ?\d+[ \t]+(?P<code>[^\n]+)", re.MULTILINE)

#: Paths of the interpreter and of installed packages. Code in the Hugging Face module cache is the model's
#: own, so it counts as the user's.
_LIBRARY = re.compile(
    r"site-packages|dist-packages|/lib/python\d|/Python\.framework/|<frozen|<string>|<__array_function__|^importlib"
)

#: A stack more than this many characters away does not belong to the error.
_REACH = 20_000


class Frame(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One frame of a Python stack in a log.

    Attributes:
        path: The file, or `Cell In[2]` of a notebook.
        line: The line number, from 1.
        function: The name of the function; empty where it is not shown.
        code: The source line; empty where it is not shown.
    """

    path: str
    line: int
    function: str = ""
    code: str = ""

    @property
    def is_library(self) -> bool:
        """Return whether the frame belongs to an installed package or to Python itself."""
        return bool(_LIBRARY.search(self.path))


def plain(text: str) -> str:
    """Return the text without what terminals, chats and logs add to it.

    Removed are terminal colours, box drawing, quote marks and pytest's `E`; typographic quotes, HTML entities,
    escaped newlines and quotes, and carriage returns become plain characters.
    """
    text = _ANSI.sub("", text).translate(_PLAIN_CHARACTERS)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\\n" in text:  # a JSON log, or repr() of an exception
        text = text.replace("\\n", "\n")
    text = text.replace("\\'", "'").replace('\\"', '"')
    if "&" in text:
        text = html.unescape(text)
    text = _BOX.sub(" ", text)
    text = _QUOTE_MARK.sub("", text)
    text = _QUOTED_PATH.sub(r"\1\2", text)
    return _PYTEST_MARK.sub("", text)


def frames_before(text: str, end: int) -> list[Frame]:
    """Return the stack frames above position `end`, in the order of the text, for Python the outermost first.

    Only frames after the last `Traceback` count, and without one those in the 20,000 characters before `end`.

    Args:
        text: The text as `plain` returns it.
        end: The position where the message begins; frames in the rest of its line count too.
    """
    begin = max(0, end - _REACH)
    traceback = text.rfind("Traceback (most recent call last)", begin, end)
    if traceback >= 0:
        begin = traceback
    line_end = text.find("\n", end)
    window = text[begin : line_end if line_end >= 0 else len(text)]
    return [frame for _, frame in sorted(_frames(window), key=lambda pair: pair[0])]


def frames_after(text: str, start: int) -> list[Frame]:
    """Return the stack that faulthandler prints below a crash, outermost first; empty when there is none.

    Args:
        text: The text as `plain` returns it.
        start: The position where the message ends; the stack must begin within 20,000 characters of it.
    """
    begin = text.find("(most recent call first)", start, start + _REACH)
    if begin < 0:
        return []
    end = text.find("\n\n", begin)
    window = text[begin : end if end >= 0 else len(text)]
    return [frame for _, frame in sorted(_frames(window), key=lambda pair: -pair[0])]


def user_frame(frames: list[Frame]) -> Frame | None:
    """Return the innermost frame that belongs to the user's own code; None when all are libraries'."""
    return next((frame for frame in reversed(frames) if not frame.is_library), None)


def _frames(window: str) -> Iterator[tuple[int, Frame]]:
    seen: set[tuple[str, str]] = set()
    for pattern in _FRAMES:
        for match in pattern.finditer(window):
            groups = match.groupdict()
            key = (match["path"], match["line"])
            if key in seen:
                continue
            seen.add(key)
            code = (groups.get("code") or "").strip()
            if not code:
                arrow = _ARROW.search(window, match.end(), match.end() + 2000)
                code = arrow["code"].strip() if arrow else ""
            function = (groups.get("function") or "").strip()
            yield match.start(), Frame(match["path"], int(match["line"]), function, code)


#: The number of each library of FFmpeg less FFmpeg's own (avutil 58 belongs to FFmpeg 6).
_FFMPEG = {
    "avutil": 52, "avcodec": 54, "avformat": 54, "avdevice": 54, "avfilter": 3, "swscale": 1,
}  # fmt: skip


def ffmpeg_major(library: str, release: str) -> str:
    """Return the major version of FFmpeg that a library's number belongs to: `avutil`, `58` gives `6`.

    The answer is empty for swresample, whose number 4 is that of FFmpeg 5 and 6, and for a number of no known release.
    """
    major = int(release) - _FFMPEG[library] if library in _FFMPEG and release.isdigit() else 0
    return str(major) if 3 <= major <= 9 else ""


def wheel_advice(name: str) -> tuple[str, str]:
    """Return for which systems a wheel was built, judged by its file name, and what to do on a Mac that refuses it.

    Returns:
        The meaning and the fix; two empty texts where the name is not that of a wheel.
    """
    parts = name.removesuffix(".whl").split("-")
    if len(parts) not in (5, 6):
        return "", ""
    package, release, python, abi, platform = parts[0], parts[1], *parts[-3:]
    pip = f"pip install {package.replace('_', '-').lower()}"
    versions = ", ".join(f"{a}.{b}" for a, b in re.findall(r"cp(\d)(\d+)", python))
    wanted = f"CPython {versions}" if versions else f"Python {python.removeprefix('py')}"
    if abi == "abi3":
        wanted += " or newer"
    macs = re.findall(r"macosx_(\d+)_(\d+)_(\w+?)(?=\.|$)", platform)
    if not macs and platform != "any":
        system = "Windows" if platform.startswith("win") else "Linux" if "linux" in platform else platform
        fix = f"Install it by its name, so that pip chooses a file for macOS: {pip}"
        fix += " (without --index-url of a CUDA build)" if "+cu" in release else ""
        fix += "; where PyPI has none for macOS (of code for CUDA it has none), leave it out if possible."
        return f"The wheel of {package} {release} is for {system} ({wanted}): no Mac takes it.", fix
    if not macs:
        means = f"The wheel of {package} {release} is for {wanted}, and this Python is another."
        return means, f"Use a Python of that version, or install it by its name: {pip}."
    major, minor, processor = macs[0]
    processor = processor if len(macs) == 1 else "universal2"
    first = major if int(major) > 10 else f"{major}.{minor}"
    kind = {"x86_64": "Intel processors", "arm64": "Apple silicon"}.get(processor, "both processors")
    checks = [f"python --version must say {wanted.removeprefix('CPython ')}"] if versions else []
    checks += [f"platform.machine() must say {processor}"] if processor in ("x86_64", "arm64") else []
    fix = f"One of these does not hold: {', '.join((*checks, f'macOS must be {first} or newer'))}. "
    if processor == "x86_64":
        fix += "On Apple silicon take the arm64 wheel, in an arm64 Python. "
    if processor == "arm64":
        fix += "An Intel Mac, or an x86-64 Python under Rosetta, cannot take it. "
    means = f"The wheel of {package} {release} is for {kind}, macOS {first} or newer, {wanted}"
    return f"{means}; this Python or Mac is not all of that.", f"{fix}{pip} chooses the file that fits."


_LIMIT = r"(?: to)? (?P<least>\d+(?:\.\d+)*) or newer"
_TORCH_LIMIT, _MACOS_LIMIT = re.compile(rf"\btorch{_LIMIT}"), re.compile(rf"\bmacOS{_LIMIT}")


def new_enough(fix: str, torch: str, macos: str, fixed_in: str = "", macos_from: str = "") -> str:
    """Return a sentence where a fix asks for releases that the text's own torch and macOS have reached already.

    Where it asks for both and only one is reached, the sentence names the other. It is empty where a version
    that the fix asks for is unknown.

    Args:
        fix: The fix, as it is shown.
        torch: The release of the text, empty when it states none.
        macos: Its macOS, empty when it states none.
        fixed_in: The first good torch release, where the fix does not name one; empty when unknown.
        macos_from: The first good macOS, where the fix does not name one; empty when unknown.
    """
    of_torch, of_macos = _TORCH_LIMIT.search(fix), _MACOS_LIMIT.search(fix)
    least = {
        "torch": of_torch["least"] if of_torch else fixed_in,
        "macOS": of_macos["least"] if of_macos else macos_from,
    }
    have = {"torch": torch, "macOS": macos}
    asked = [name for name, release in least.items() if release]
    if not asked or not all(have[name] for name in asked):
        return ""
    reached = [name for name in asked if _reaches(have[name], least[name])]
    if not reached:
        return ""
    said = " and ".join(f"{name} {have[name]}" for name in reached)
    missed = [name for name in asked if name not in reached]
    if missed:
        (name,) = missed
        return f"{said} is new enough already; {name} {have[name]} is not: it must be {least[name]} or newer."
    said += f" {'is' if len(reached) == 1 else 'are'} new enough already"
    if (
        macos
        and not least["macOS"]
        and re.search(r"\b(?:newer|[Uu]pdate|current) (?:torch and )?macOS\b", fix)
    ):
        return f"{said}: what is left is a macOS newer than {macos}, or the other ways."
    which = " (print(torch.__version__) in the program)" if "torch" in reached else ""
    return f"{said}: check that the program runs there{which}, or take the other ways."


def _reaches(have: str, least: str) -> bool:
    """Return whether a version is not older than a release; one of the same number before its release is older."""
    try:
        return Version(have) >= Version(least)
    except InvalidVersion:
        return False
