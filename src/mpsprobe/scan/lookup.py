"""The tables that detectors use: torch.cuda without CUDA, packages that need CUDA, and one torch release's ops."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from mpsprobe import toml
from mpsprobe.knowledge import advisories, environment, ops
from mpsprobe.run import OpVerdict
from mpsprobe.scan.findings import DATA


class TorchCuda(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names below `torch.cuda`, grouped by the effect of a call in a build without CUDA.

    Attributes:
        raises: The calls that raise.
        streams: The calls on streams and events, which raise.
        nothing: The calls that do nothing and return zero or None.
        seeds: The calls that seed only CUDA and therefore do nothing.
    """

    raises: frozenset[str]
    streams: frozenset[str]
    nothing: frozenset[str]
    seeds: frozenset[str]


class _Packages(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    package: tuple[environment.NeedsCuda, ...]
    library: tuple[environment.NeedsCuda, ...]


@lru_cache(maxsize=1)
def torch_cuda() -> TorchCuda:
    """Return the table of `data/torch_cuda.toml`."""
    return toml.load(DATA / "torch_cuda.toml", TorchCuda)


@lru_cache(maxsize=1)
def _packages() -> _Packages:
    return toml.load(DATA / "packages.toml", _Packages)


@lru_cache(maxsize=4096)
def cuda_only(module: str) -> environment.NeedsCuda | None:
    """Return the CUDA-only package that a dotted module name belongs to, whose import fails on a Mac; else None."""
    top = module.partition(".")[0]
    if cuda_library(top) is not None:
        return None
    mine = next((package for package in _packages().package if top in package.names), None)
    return mine or environment.package(top)


@lru_cache(maxsize=4096)
def cuda_library(module: str) -> environment.NeedsCuda | None:
    """Return the package of a dotted module name that a Mac can import but that needs CUDA to work; else None."""
    top = module.partition(".")[0]
    return next((library for library in _packages().library if top in library.names), None)


#: Ops that autocast does not list, but that call ops which it does list.
_MULTIPLY_INSIDE = {
    "tensordot", "inner", "kron", "cov", "corrcoef", "matrix_power", "matrix_exp", "bilinear", "lstm", "gru",
    "rnn_tanh", "rnn_relu", "multi_head_attention_forward", "conv_transpose2d", "conv_transpose3d",
}  # fmt: skip


@lru_cache(maxsize=4)
def torch_release(torch: str) -> TorchRelease:
    """Return the look-up of a release's ops by the names that source code uses; it is made once.

    Raises:
        UnknownReleaseError: There is no data on the release.
    """
    return TorchRelease(torch)


class TorchRelease:
    """The ops of one torch release, by the names that source code uses.

    Attributes:
        torch: The minor release, such as `"2.13"`.
    """

    def __init__(self, torch: str) -> None:
        self.torch = ops.resolve_release(torch)
        release = ops.release(self.torch)
        self._names = release.names
        by_base: dict[str, list[ops.OpSupport]] = {}
        for name in release.names:
            if not name.endswith("out"):
                by_base.setdefault(name.partition(".")[0], []).append(release.lookup(name))
        self._bases = frozenset(by_base)
        self._lowered = frozenset(op.partition(".")[0] for op in release.autocast.get("fp16", ()))
        # The source does not show which overload is meant, so an op is missing when all of its overloads are.
        self._missing = {
            name: overloads
            for name, overloads in by_base.items()
            if all(overload.verdict(fallback=False) is OpVerdict.RAISES for overload in overloads)
        }
        short = {name.partition("::")[2] for name in self._missing}
        modules = ("fft_", "linalg_", "special_", "sparse_")  # torch.linalg.eig is aten::linalg_eig
        self._tails = short | {name.partition("_")[2] for name in short if name.startswith(modules)}
        self._answers: dict[str, tuple[str, bool] | None] = {}

    def missing(self, function: str) -> tuple[str, bool] | None:
        """Return the op that a torch function lacks on MPS, and whether PYTORCH_ENABLE_MPS_FALLBACK=1 makes it run.

        None when one of its overloads runs, or when the function is unknown.

        Args:
            function: The dotted name, such as `"torch.linalg.eig"`.
        """
        if function.rpartition(".")[2] not in self._tails:
            return None
        if function not in self._answers:
            self._answers[function] = self._look_up(function)
        return self._answers[function]

    def _look_up(self, function: str) -> tuple[str, bool] | None:
        try:
            first = ops.normalise(function, self._names)[0]
        except ops.UnknownOpError:
            return None
        overloads = self._missing.get(first.partition(".")[0])
        if overloads is None:
            return None
        helps = all(overload.verdict(fallback=True) is not OpVerdict.RAISES for overload in overloads)
        return overloads[0].via or overloads[0].op, helps

    def is_lowered_by_autocast(self, name: str) -> bool:
        """Return whether autocast may run a function or method, or ops inside it, in half precision.

        Args:
            name: The last part of its name, such as `"cos"`. For a name that is not an op (a module, a function of
                the model) the answer is True.
        """
        op = f"aten::{name}"
        return op not in self._bases or op in self._lowered or name in _MULTIPLY_INSIDE

    def advisory(self, name: str) -> advisories.Advisory | None:
        """Return the advisory with this id where it applies, or may apply, to this release; else None."""
        return next(
            (one.advisory for one in advisories.applicable(self.torch) if one.advisory.id == name), None
        )

    @property
    def in_place_on_views(self) -> dict[str, advisories.Advisory]:
        """Return the in-place methods (`"normal_"`) that an advisory calls wrong on non-contiguous tensors."""
        return _in_place_on_views(self.torch)


@lru_cache(maxsize=16)
def _in_place_on_views(torch: str) -> dict[str, advisories.Advisory]:
    found: dict[str, advisories.Advisory] = {}
    for match in advisories.applicable(torch):
        # a case that also asks for gaps in what is read is not known from the written view
        cases = [
            case.tensors
            for case in match.advisory.when
            if not any(
                isinstance(one.arg, int) and one.arg and one.contiguous is False for one in case.tensors
            )
        ]
        strided = any(
            tensor.contiguous is False
            and (tensor.arg in ("any", "all", 0) or (isinstance(tensor.arg, list) and 0 in tensor.arg))
            for tensors in cases
            for tensor in tensors
        )
        if strided:
            for op in match.advisory.ops:
                name = op.partition("::")[2].partition(".")[0]
                if name.endswith("_"):
                    found.setdefault(name, match.advisory)
    return found
