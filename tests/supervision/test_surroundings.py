"""Faults of what is installed or set here, each with the command that fixes it. The texts are the packages' own."""

from __future__ import annotations

import pytest

from mpsprobe.errors import SurroundingsError
from mpsprobe.supervision import surroundings

#: From transformers' dependency_versions_check, Python's import system, importlib.metadata and the dynamic linker.
TEXTS = {
    "ImportError: huggingface-hub>=0.34.0,<1.0 is required for a normal functioning of this module, but found "
    "huggingface-hub==2.4.": "install 'huggingface-hub>=0.34.0,<1.0'",
    "ModuleNotFoundError: No module named 'accelerate.utils'": "--force-reinstall accelerate",
    "ModuleNotFoundError: No module named 'accelerate'": "install accelerate",
    "ImportError: cannot import name 'cached_download' from 'huggingface_hub' (/x/__init__.py)": "huggingface-hub",
    "importlib.metadata.PackageNotFoundError: No package metadata was found for tokenizers": "tokenizers",
    "OSError: libcudart.so.12: cannot open shared object file: No such file or directory": "torch",
    "AttributeError: module 'torch' has no attribute 'float8_e8m0fnu'": "--force-reinstall torch",
}


@pytest.mark.parametrize(("text", "fix"), list(TEXTS.items()))
def test_fault_of_a_package_names_its_fix(text: str, fix: str) -> None:
    found = surroundings.fault(text)
    assert found is not None
    assert fix in found.hint
    assert found.exit_code == 3


@pytest.mark.parametrize(
    "text",
    [
        "ModuleNotFoundError: No module named 'mpsprobe.evil'",
        "AttributeError: module 'json' has no attribute 'evil'",
        "RuntimeError: mat1 and mat2 shapes cannot be multiplied",
        "",
    ],
)
def test_other_errors_are_no_fault_of_the_surroundings(text: str) -> None:
    assert surroundings.fault(text) is None


@pytest.mark.parametrize("value", ["htp://proxy:3128", "http://proxy:port", "http://", "://x", "ftp://proxy"])
@pytest.mark.parametrize("name", ["HTTPS_PROXY", "http_proxy", "ALL_PROXY"])
def test_broken_proxy_variable_is_named(name: str, value: str) -> None:
    with pytest.raises(SurroundingsError, match=name) as caught:
        surroundings.check_proxies({name: value})
    assert caught.value.hint == f"unset {name}"


@pytest.mark.parametrize("value", ["", "http://proxy:3128", "proxy:3128", "socks5h://user:pass@[::1]:1080"])
def test_sound_proxy_passes(value: str) -> None:
    surroundings.check_proxies({"HTTPS_PROXY": value})
