"""The catalogue of messages, against users' own texts and the strings of PyTorch's wheels."""

import pytest

from mpsprobe.knowledge import environment
from mpsprobe.knowledge.error_texts import by_id, find, messages
from mpsprobe.knowledge.explain import explain
from tests.knowledge.real_texts import BROADCAST, REAL


@pytest.mark.parametrize(
    ("link", "text", "expected", "values"), REAL, ids=[f"{r[2]}-{i}" for i, r in enumerate(REAL)]
)
def test_users_texts_are_recognised(link: str, text: str, expected: str, values: dict[str, str]) -> None:
    found = find(text)
    assert expected in [hit.message.id for hit in found], link
    hit = next(hit for hit in found if hit.message.id == expected)
    assert values.items() <= hit.values.items()


@pytest.mark.parametrize(
    ("message", "text", "first", "last"),
    [(m.id, *entry) for m in messages() for entry in m.texts],
)
def test_every_string_of_the_wheels_is_found_with_its_releases(
    message: str, text: str, first: str, last: str
) -> None:
    hits = [hit for hit in find(text) if hit.message.id == message]
    assert [hit.wheels for hit in hits] == [(first, last)]


def test_releases_of_the_strings_are_wheels_that_exist() -> None:
    wheels = [version for entry in environment.releases() for version in entry.commits]
    for message in messages():
        for text, first, last in message.texts:
            assert wheels.index(first) <= wheels.index(last), text


def test_a_text_that_says_nothing_of_mps_gives_nothing() -> None:
    for text in (
        "",
        "hello",
        "RuntimeError: the plan has no step 7",
        "KeyError: 'model.layers.0.weight'",
        "CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 7.80 GiB total capacity)",
        "Epoch 3/10 step 100 loss=0.31",
        "The operator 'aten::foo' is not currently implemented for the XLA device.",
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!",
        "RuntimeError: Expected a 'cuda' device type for generator but found 'cpu'",
        "Input type (torch.cuda.FloatTensor) and weight type (torch.FloatTensor) should be the same",
    ):
        assert find(text) == [], text


@pytest.mark.parametrize(
    "text",
    [
        "Expected all tensors to be on the same device, but found at least two devices, mps:0 and cpu!",
        "Expected all tensors to be on the same device, but got index is on cpu, different from other tensors on mps:0 "
        "(when checking argument in method wrapper_MPS__index_select)",
    ],
)
def test_both_wordings_of_two_devices_name_them(text: str) -> None:
    (hit,) = find(text)
    assert {hit.values["device"], hit.values["device2"]} == {"cpu", "mps:0"}


def test_mpsgraph_and_llvm_lines_are_one_finding() -> None:
    assert [finding.message for finding in explain(BROADCAST).findings] == ["llvm-broadcast"]


def test_an_unknown_restriction_is_told_as_generic() -> None:
    (hit,) = find("RuntimeError: frobnicate is not supported on MPS with purple tensors")
    assert hit.message.id == "does-not-support"
    assert hit.message.generic


def test_a_specific_message_hides_the_generic_one() -> None:
    ids = [hit.message.id for hit in find("TypeError: BFloat16 is not supported on MPS")]
    assert ids == ["bfloat16-none"]


def test_wrapped_lines_are_read_across() -> None:
    text = "RuntimeError: Placeholder storage\n   has not been allocated\n   on MPS device!"
    assert [hit.message.id for hit in find(text)] == ["placeholder-storage"]


def test_ids_are_unique_and_hidden_ids_exist() -> None:
    ids = [message.id for message in messages()]
    assert len(ids) == len(set(ids))
    for message in messages():
        assert set(message.hides) <= set(ids), message.id


def test_every_message_says_what_to_do() -> None:
    for message in messages():
        assert message.means.endswith(".") or message.means.endswith(")"), message.id
        assert message.fix.endswith((".", ")")), message.id
        assert message.anchors, message.id


def test_an_unknown_id_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="no-such"):
        by_id("no-such")


_SLICE = "MPSNDArray.mm:84: failed assertion `[MPSNDArrayDescriptor sliceDimension:withSubrange:] error: "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            _SLICE + "the range subRange.start + subRange.length does not fit in dimension[1] (9)'",
            "slice-assertion",
        ),
        (
            "MPS: no support for int64 repeats mask, casting it to int32. Support has been added in macOS 13.3",
            "int64-downcast",
        ),
        ("Dimension out of range (expected to be in range of [-3, 2], but got 3)", "dimension-out-of-range"),
        ("Dimension out of range (expected to be in range of [-1, 0], but got 2)", "dimension-out-of-range"),
        ("RuntimeError: Failed to load the default metallib. library not found", "mlx-metallib"),
        ("[load_safetensors] Failed to open file model.safetensors", "mlx-model-file"),
        ("Symbol not found: (_my_own_function)", "flat-namespace-symbol"),
        (
            "libmetal_plugin.dylib, 6): Symbol not found: __ZN10tensorflow8internal",
            "tensorflow-metal-version",
        ),
        ("derivative for aten::_scaled_dot_product_fused is not implemented", "derivative-missing"),
        ('loc("mps_add"("(mpsFileLoc): x.mm":43:0)): error: incompatible dimensions', "mpsgraph-dimensions"),
        ("error: 'mps.concat' op operand #1 must be tensor of int values", "graph-verification"),
        ("MPSNDArrayGather.mm:9: failed assertion `a fault that nobody has met'", "assertion-of-resampling"),
        ("MPSNDArrayQuux.mm:9: failed assertion `a fault that nobody has met'", "metal-assertion"),
        ("Library not loaded: @rpath/libsndfile.dylib", "library-not-loaded"),
        ("CMake Error at CMakeLists.txt:45 (message): Could not find BLAS", "compile-of-package-failed"),
        (
            "ValueError: [gather] Slice sizes must be in [0, a.shape(i)]. Got (9) for array with (4)",
            "mlx-checks",
        ),
        ('xcrun: error: unable to find utility "metal", not a developer tool', "metal-compiler-missing"),
        ("ld: symbol(s) not found for architecture arm64", "undefined-symbols"),
        (
            "ld: warning: ignoring file libfoo.a, building for macOS-arm64 but attempting to link with file built for "
            'macOS-x86_64\nUndefined symbols for architecture arm64:\n  "_foo", referenced from:\n      _main in a.o',
            "bad-cpu-type",
        ),
        ("value cannot be converted to type at::Half without overflow", "half-overflow"),
        ("value cannot be converted to type int64_t without overflow", "scalar-beyond-integer"),
        ("ld: Undefined symbols: _omp_get_thread_num, referenced from:", "undefined-symbols"),
        ("_pickle.PicklingError: cannot pickle 'generator' object", "spawn-pickle"),
        ("jax_metal: error: no kernel", "jax-metal"),
        (
            "RuntimeError: Failed to create Metal library: This library is using language version 4.0 "
            "which is not supported on this OS.",
            "metallib-too-new",
        ),
        (
            "Function kernel_41 is using language version 4.1 which is incompatible with this OS.",
            "metallib-too-new",
        ),
        ("RuntimeError: Failed to create Metal library: program_source:3: error: expected", "shader-compile"),
        ("[jaccl] Couldn't connect (error: 60)", "mlx-ring-connection"),
        ("[jaccl] Creating the queue pair failed with errno 16.", "mlx-jaccl"),
        ("RuntimeError: [ring] Couldn't bind socket (error: 48)", "mlx-ring-connection"),
        ("system_error: recursive_mutex lock failed: Invalid argument", "mutex-at-exit"),
    ],
)
def test_a_near_miss_keeps_the_answer_of_its_own(text: str, message: str) -> None:
    assert [hit.message.id for hit in find(text)] == [message]


@pytest.mark.parametrize(
    "text",
    [
        "thread 'main' panicked: failed to run custom build command for `my-crate v0.1.0`",
        "error: unknown type name 'float16_t'",
        "error: invalid value 'c++29' in '-std=c++29'",
        "error: 'packed' attribute requires C11",
        "node a (relu) got a tensor",
        "[ringbuffer] Couldn't connect (error: 60)",
        "NotImplementedError: ('{} cannot be pickled', 'MyThing')",
        "Could not open /models/weights.bin",
        "pip does provide the extra 'mlx'",
        "[jaccl] Initialized rank 0 of 2",
        "mutex lock failed: Resource busy",
        "rope_scaling is None",
    ],
)
def test_a_text_that_only_resembles_one_gives_nothing(text: str) -> None:
    assert find(text) == []


@pytest.mark.parametrize(
    ("name", "means", "fix"),
    [
        ("torch-2.1.0+cu121-cp310-cp310-linux_x86_64.whl", "Linux", "pip install torch (without --index-url"),
        ("flash_attn-2.5.9+cu122torch2.3-cp310-cp310-win_amd64.whl", "Windows", "leave it out"),
        ("ttsfrd-0.4.2-cp310-cp310-linux_x86_64.whl", "Linux", "leave it out"),
        ("llama_cpp_python-0.2.19-cp311-cp311-macosx_12_0_x86_64.whl", "Intel", "must say x86_64"),
        ("mlx-0.12.0-cp312-cp312-macosx_14_0_arm64.whl", "Apple silicon, macOS 14", "must say 3.12"),
        (
            "x-1.0-cp39-abi3-macosx_10_9_universal2.whl",
            "both processors, macOS 10.9 or newer, CPython 3.9 or newer",
            "pip install x",
        ),
        ("old-1.0-py2-none-any.whl", "Python 2", "Python of that version"),
    ],
)
def test_a_refused_wheel_is_told_by_its_name(name: str, means: str, fix: str) -> None:
    (found,) = explain(f"ERROR: {name} is not a supported wheel on this platform.").findings
    assert means in found.means
    assert fix in found.fix
    assert name.startswith("torch-") == ("pip install torch" in found.fix)


def test_numbers_of_ffmpeg_libraries_name_its_release() -> None:
    # FFmpeg's doc/APIchanges: avutil 58 and avcodec 60 are FFmpeg 6's, avdevice 58 is FFmpeg 4's
    for name, major in (("avutil.58", "6"), ("avcodec.60", "6"), ("avdevice.58", "4"), ("avfilter.10", "7")):
        (found,) = explain(f"Library not loaded: @rpath/lib{name}.dylib").findings
        assert f"FFmpeg {major}." in found.means
        assert f"ffmpeg@{major} " in found.fix


def test_a_slice_that_starts_beyond_names_no_fixing_release() -> None:
    (found,) = explain(
        _SLICE + "subRange.start (8192) is not less than length of dimension[1] (512)'"
    ).findings
    assert (found.message, found.fixed_in) == ("slice-start-assertion", "")


def test_the_two_halves_of_a_failed_link_are_one_finding() -> None:
    text = 'Undefined symbols for architecture arm64:\n  "_foo", referenced from:\n      _main in a.o\n'
    (found,) = explain(f"{text}ld: symbol(s) not found for architecture arm64").findings
    assert (found.message, found.values) == ("undefined-symbols", {"architecture": "arm64", "symbol": "_foo"})
