"""The tables of torch.cuda and of packages, against PyTorch itself and against the knowledge room."""

from __future__ import annotations

import operator
import warnings
from typing import Any

import pytest
import torch

from mpsprobe.knowledge import environment
from mpsprobe.scan import lookup

TABLE = lookup.torch_cuda()
#: What a call needs to get as far as CUDA.
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "device": (0,),
    "set_device": (0,),
    "can_device_access_peer": (0, 1),
    "caching_allocator_alloc": (8,),
    "caching_allocator_delete": (0,),
    "set_per_process_memory_fraction": (0.5,),
    "set_sync_debug_mode": (0,),
    "nvtx.mark": ("x",),
    "nvtx.range_push": ("x",),
    "ExternalStream": (0,),
    "manual_seed": (0,),
    "manual_seed_all": (0,),
    "random.manual_seed": (0,),
    "random.manual_seed_all": (0,),
}
#: Need a real argument, or a package that is not here, to fail for the reason that counts.
NOT_CALLED = {"graph", "make_graphed_callables", "clock_rate", "power_draw", "temperature", "utilization"}

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="shows what a build without CUDA does")


def call(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = operator.attrgetter(name)(torch.cuda)(*ARGUMENTS.get(name, ()))
        if hasattr(result, "__enter__"):
            with result:
                pass
        return result


@pytest.mark.parametrize("name", sorted((TABLE.raises | TABLE.streams) - NOT_CALLED))
def test_what_is_said_to_raise_raises(name: str) -> None:
    # TypeError: a tensor type of CUDA; KeyError: memory_summary finds no statistics.
    with pytest.raises((AssertionError, RuntimeError, AttributeError, TypeError, KeyError)):
        call(name)


@pytest.mark.parametrize("name", sorted(TABLE.nothing | TABLE.seeds))
def test_what_is_said_to_do_nothing_does_nothing(name: str) -> None:
    assert not call(name)


def test_the_kinds_do_not_overlap() -> None:
    kinds = [TABLE.raises, TABLE.streams, TABLE.nothing, TABLE.seeds]
    assert sum(map(len, kinds)) == len(frozenset().union(*kinds))


def test_packages_are_listed_once() -> None:
    assert lookup.cuda_only("flash_attn.bert_padding") is environment.package("flash_attn")
    assert lookup.cuda_only("mamba_ssm.ops.triton.x") is not None
    assert lookup.cuda_only("transformers") is None
    assert lookup.cuda_only("bitsandbytes") is None  # it imports on a Mac
    assert lookup.cuda_library("bitsandbytes.nn") is not None
    mine = [name for package in lookup._packages().package for name in package.names]
    assert len(mine) == len(set(mine))
    assert not [name for name in mine if environment.package(name)]


def test_a_function_is_missing_when_all_its_overloads_are() -> None:
    release = lookup.torch_release("2.13.0")
    assert release.missing("torch.linalg.eig") == ("aten::linalg_eig", True)
    assert release.missing("torch.linalg.eigh") == ("aten::_linalg_eigh.eigenvalues", True)
    assert release.missing("torch.mm") is None  # only mm.dtype is missing
    assert release.missing("torch.nn.functional.fractional_max_pool2d") is not None
    assert release.missing("torch.eig") is None  # no such op
    assert release.missing("numpy.take") is None
