# ruff: noqa: E501, RUF001 (quotes stay as they were written)
"""Texts of pip, uv, conda, clang, ld, dyld, CMake and cargo, and of applications: the class, and what the text names."""

import re
import time

import pytest

from mpsprobe.knowledge._installation import advice, package_of
from mpsprobe.knowledge.error_texts import messages
from mpsprobe.knowledge.explain import explain
from tests.knowledge.real_texts import REAL

G = "https://github.com/"

#: Thread or source file, text, message, a piece of the meaning, a piece of the fix.
TEXTS = [
    (
        G + "elgiano/nn.ar/issues/1",
        "dlopen(/Users/XXXX/Library/Application Support/SuperCollider/Extensions/RAVE/RAVE_scsynth.scx, 0x0002): Library not loaded: @rpath/libc10.dylib",
        "library-not-loaded",
        "plug-in without Python is linked against libc10.dylib",
        "install_name_tool -add_rpath",
    ),
    (
        "dyld's words",
        "ImportError: dlopen(/x/lib/python3.11/site-packages/torch_scatter/_scatter_cpu.so, 0x0006): Library not loaded: @rpath/libc10.dylib",
        "library-not-loaded",
        "(of torch_scatter)",
        "torch_scatter belongs to one torch release",
    ),
    (
        G + "thousandbrainsproject/tbp.monty/issues/81",
        "LibMambaUnsatisfiableError: Encountered problems while solving:\n  - nothing provides requested aihabitat::habitat-sim =0.2.2*\n  - nothing provides requested mkl <2022\n  - nothing provides blas * mkl needed by pytorch-1.11.0.arm64-py3.8_0",
        "conda-intel-only",
        "habitat-sim exists for Intel processors only",
        "CONDA_SUBDIR=osx-64",
    ),
    (
        G + "OpenBMB/MiniCPM/issues/6",
        "Cannot find CUDA_HOME. CUDA must be available to build the package",
        "cuda-home",
        "wants to compile CUDA code",
        "Leave the package out",
    ),
    (
        G + "facebookresearch/audiocraft/issues/105",
        "ModuleNotFoundError: No module named 'torch'\n      [end of output]",
        "torch-missing-in-build",
        "an environment of its own that does not have it",
        "pip install --no-build-isolation",
    ),
    (
        "pip: an isolated build, box and package",
        "  \u2502   ModuleNotFoundError: No module named 'torch'\n  \u2570\u2500> [end of output]\n\n  note: This error originates from a subprocess, and is likely not a problem with pip.\nERROR: Failed to build 'xformers' when getting requirements to build wheel",
        "torch-missing-in-build",
        "set-up script of xformers imports torch",
        "--no-build-isolation xformers",
    ),
    (
        "pip: an isolated build that wants pkg_resources",
        "      ModuleNotFoundError: No module named 'pkg_resources'\n      [end of output]\n",
        "torch-missing-in-build",
        "imports pkg_resources",
        "'setuptools<81' wheel, then pip install --no-build-isolation",
    ),
    (
        G + "pytorch/pytorch/issues/72069",
        "clang: error: unable to execute command: Segmentation fault: 11\nclang: error: clang frontend command failed due to signal (use -v to see invocation)",
        "clang-crashed",
        "The compiler itself crashed",
        "MAX_JOBS=2",
    ),
    (
        G + "flet-dev/flet/issues/4543",
        "dlopen(/Users/x/app/__pypackages__/numpy/core/_multiarray_umath.cpython-312-darwin.so, 0x0002): tried: '/Users/x/app/_multiarray_umath.cpython-312-darwin.so' (code signature in <4B244C37-40C5-380A-9FCF-3FE515E61AAA> '/Users/x/app/_multiarray_umath.cpython-312-darwin.so' not valid for use in process: library load disallowed by system policy)",
        "library-quarantined",
        "com.apple.quarantine",
        "xattr -dr com.apple.quarantine",
    ),
    (
        "dyld: library validation",
        "tried: '/x/_ssl.so' (code signature in <A> '/x/_ssl.so' not valid for use in process: mapped file has no Team ID and is not a platform binary (signed with custom identity or adhoc?))",
        "library-other-team",
        "Library validation",
        "com.apple.security.cs.disable-library-validation",
    ),
    (
        "dyld: library validation, older words",
        "(code signature in (/x/a.dylib) not valid for use in process using Library Validation: mapping process is a platform binary, but mapped file is not)",
        "library-of-platform-binary",
        "one of macOS's own",
        "in place of /usr/bin's",
    ),
    (
        "dyld: no signature",
        "(code signature in <A> '/x/a.dylib' not valid for use in process: mapped file has no cdhash, completely unsigned? Code has to be at least ad-hoc signed.)",
        "library-unsigned",
        "no signature at all",
        "codesign --force --sign - FILE",
    ),
    (
        "dyld: the bytes",
        "tried: '/x/a.dylib' (code signature invalid in <A> '/x/a.dylib' (errno=1) sliceOffset=0x00000000, codeBlobOffset=0x000142F0, codeBlobSize=0x00004AA0)",
        "library-signature-broken",
        "do not fit its signature",
        "pip install --force-reinstall",
    ),
    (
        G + "csukuangfj/onnxruntime-build/issues/18",
        'Undefined symbols for architecture arm64:\n  "_OrtSessionOptionsAppendExecutionProvider_CoreML"',
        "undefined-symbols",
        "_OrtSessionOptionsAppendExecutionProvider_CoreML of onnxruntime",
        "--use_coreml",
    ),
    (
        "ld's words",
        'Undefined symbols for architecture arm64:\n  "_nobody_knows_me", referenced from:\n',
        "undefined-symbols",
        "misses _nobody_knows_me",
        "nm -gU FILE",
    ),
    (
        G + "robert-graf/VIBESegmentator/issues/5",
        "perform_everything_on_gpu=True is only supported for cuda devices! Setting this to False",
        "nnunet-notes",
        "A note of nnU-Net",
        "Nothing must be done",
    ),
    (
        G + "ggml-org/whisper.cpp/issues/1495",
        "scikit-learn version 1.2.2 is not supported. Minimum required version: 0.17. Maximum required version: 1.1.2. Disabling scikit-learn conversion API.",
        "coremltools-versions",
        "A note of coremltools",
        "Nothing must be done",
    ),
    (
        G + "ggml-org/whisper.cpp/issues/2783",
        "ane-transformers 0.1.3 requires torch<=1.11.0,>=1.10.0",
        "pip-incompatible",
        "matters only where ane-transformers is used",
        "two environments",
    ),
    (
        "pip's closing remark, after its own sentence",
        'ERROR: pip\'s dependency resolver does not currently take into account all the packages that are installed. This behaviour is the source of the following dependency conflicts.\ntts 0.22.0 requires numpy==1.22.0; python_version <= "3.10", but you have numpy 1.26.4 which is incompatible.',
        "pip-incompatible",
        "tts asks for numpy==1.22.0, and numpy 1.26.4 is installed",
        "pip install 'numpy==1.22.0'",
    ),
    (
        "pip's closing remark of torch's own family",
        "torchvision 0.15.2 requires torch==2.0.1, but you have torch 2.1.0 which is incompatible.",
        "pip-incompatible",
        "torch 2.1.0 is installed",
        "pip install -U torch torchvision torchaudio",
    ),
    (
        "pip check's words",
        "numba 0.60.0 requires llvmlite, which is not installed.",
        "pip-incompatible",
        "numba asks for llvmlite, and it is not installed",
        "pip install 'llvmlite'",
    ),
    (
        "pip: an isolated build that wants skbuild",
        "error: subprocess-exited-with-error\n  ModuleNotFoundError: No module named 'skbuild'\n      [end of output]\n  note: This error originates from a subprocess, and is likely not a problem with pip.",
        "torch-missing-in-build",
        "imports skbuild",
        "pip install scikit-build setuptools wheel first",
    ),
    (
        "clang's words of the linker",
        "clang: error: linker command failed due to signal (use -v to see invocation)",
        "linker-crashed",
        "linker itself crashed",
        "-ld_classic",
    ),
    (
        "cargo's words",
        "error: could not compile `tokenizers` (lib)\nCaused by: process didn't exit successfully: `rustc --crate-name tokenizers` (signal: 9, SIGKILL: kill)",
        "rustc-crashed",
        "mostly for memory",
        "CARGO_BUILD_JOBS",
    ),
    (
        "rustc's words",
        "error[E0599]: no method named `is_none_or` found for enum `Option` in the current scope",
        "rust-source-error",
        "wants a newer Rust",
        "rustup update",
    ),
    (
        "urllib3: its refusal",
        "ImportError: urllib3 v2.0 only supports OpenSSL 1.1.1+, currently the 'ssl' module is compiled with 'OpenSSL 1.0.2u'",
        "openssl-too-old",
        "older than 1.1.1",
        "urllib3<2",
    ),
    (
        G + "jhj0517/Whisper-WebUI/issues/180",
        "/x/venv/lib/python3.9/site-packages/urllib3/__init__.py:35: NotOpenSSLWarning: urllib3 v2 only supports OpenSSL 1.1.1+, currently the 'ssl' module is compiled with 'L",
        "libressl",
        "nothing fails by it",
        "urllib3<2",
    ),
    (
        G + "rvandewater/YAIB/issues/3",
        "OMP: Info #271: omp_set_nested routine deprecated, please use omp_set_max_active_levels instead.",
        "openmp-notes",
        "Nothing fails by it",
        "KMP_WARNINGS=0",
    ),
    (
        G + "mlc-ai/mlc-llm/issues/3036",
        "Error: Using LLVM 19.1.4 with `-mcpu=apple-latest` is not valid in `-mtriple=arm64-apple-macos`, using default `-mcpu=generic`",
        "tvm-notes",
        "A note of TVM",
        "Nothing must be done",
    ),
    (
        G + "guillaumeboniface/super_resolution/issues/1",
        "pluggable_device_factory.cc:271] Created TensorFlow device (/job:localhost/replica:0/task:0/device:GPU:0 with 0 MB memory) -> physical PluggableDevice (device: 0, name: METAL, pci bus id: <undefined>)",
        "tensorflow-metal-notes",
        "'0 MB memory'",
        "Nothing must be done",
    ),
    (
        G + "invoke-ai/InvokeAI/issues/243",
        "error[E0658]: macro attributes in #[derive] output are unstable",
        "rust-toolchain",
        "Rust is too old",
        "rustup update",
    ),
    (
        "cargo's words",
        "error: rustc 1.72.1 is not supported by the following packages:\n  indexmap@2.11.0 requires rustc 1.82",
        "rust-toolchain",
        "Rust is too old",
        "rustup update",
    ),
    (
        "rustc's words",
        "error[E0554]: `#![feature]` may not be used on the stable release channel",
        "rust-nightly-only",
        "nightly compiler",
        "RUSTUP_TOOLCHAIN=nightly",
    ),
    (
        G + "iperov/DeepFaceLab/issues/5442",
        "ERROR: Could not find a version that satisfies the requirement opencv-contrib-python-headless==4.5.1.48 (from versions: 3.4.0.14, 3.4.11.45, 3.4.13.47, 3.4.14.51, 3.4.15.55,",
        "no-wheel-of-any",
        "has no file of opencv-contrib-python-headless that fits ==4.5.1.48",
        "the whole list names",
    ),
    (
        G + "huggingface/speech-to-speech/issues/44",
        'raise RuntimeError("Could not configure working env. Have you installed MeC',
        "mecab-not-installed",
        "MeCab must be installed",
        "brew install mecab",
    ),
    (
        G + "OpenMind/OM1/issues/121",
        "Could not import the PyAudio C module 'pyaudio._portaudio'",
        "pyaudio-module",
        "PortAudio is missing",
        "brew install portaudio",
    ),
    (
        G + "Anjok07/ultimatevocalremovergui/issues/320",
        "OSError: ctypes.util.find_library() did not manage to locate a library called 'sndfile'",
        "brew-library",
        "the library sndfile",
        "brew install libsndfile",
    ),
    (
        G + "ggml-org/whisper.cpp/issues/2278",
        "whisper_model_load: invalid model data (bad magic)",
        "whisper-model-file",
        "no ggml file of Whisper",
        "ggml-*.bin",
    ),
    (
        G + "invoke-ai/InvokeAI/issues/297",
        "Error running RealESRGAN - Your image was not upscaled.\n'NoneType' object has no attribute 'enhance'",
        "upscaler-not-loaded",
        "was not loaded",
        "update the program",
    ),
    (
        G + "svc-develop-team/so-vits-svc/issues/143",
        "AssertionError: CPU training is not allowed.",
        "vits-training-cuda",
        "written for NVIDIA GPUs",
        "a machine with CUDA",
    ),
    (
        G + "pytorch/vision/issues/9164",
        "'torchvision::deform_conv2d' is not currently implemented for the MPS device",
        "missing-op",
        "no MPS kernel",
        "Install torchvision 0.23 or newer",
    ),
    (
        G + "MIC-DKFZ/nnUNet/issues/2244",
        "torch._dynamo.exc.BackendCompilerFailed: backend='inductor' raised:\nAssertionError: Device mps not supported",
        "compile-device",
        "cannot generate code for mps",
        "aot_eager",
    ),
    (
        "dyld's words: the file's path tells its package",
        "OSError: dlopen(/x/site-packages/llama_cpp/libllama.dylib, 0x0006): tried: '/x/site-packages/llama_cpp/libllama.dylib' (mach-o file, but is an incompatible architecture (have 'x86_64', need 'arm64'))",
        "wrong-architecture",
        "another processor",
        "--no-cache-dir llama-cpp-python",
    ),
    (
        G + "openai/baselines/issues/1216",
        "gym.error.DependencyNotInstalled: dlopen(/x/venv/lib/python3.10/site-packages/mujoco_py/generated/cymj_2.1.2.14_310_macextensionbuilder_310.so, 0x0002): symbol not found in flat namespace '_mj_Euler'.",
        "flat-namespace-symbol",
        "(of mujoco-py) wants a function of MuJoCo (_mj_Euler)",
        "pip install mujoco",
    ),
    (
        G + "speechbrain/speechbrain/issues/1603",
        "ImportError: dlopen(/x/lib/python3.8/site-packages/sentencepiece/_sentencepiece.cpython-38-darwin.so, 2): Symbol not found: ____chkstk_darwin\n  Referenced from: /x/lib/python3.8/site-packages/sentencepiece/_sentencepiece.cpython-38-darwin.so\n  Expected in: /usr/lib/libSystem.B.dylib\n",
        "flat-namespace-symbol",
        "built for a newer macOS than this one: its libSystem.B.dylib",
        "an older release of sentencepiece",
    ),
    (
        G + "openai/mujoco-py/issues/780",
        "ImportError: dlopen(/x/cymj.so, 0x0002): Library not loaded: @rpath/MuJoCo.framework/Versions/A/libmujoco.2.1.1.dylib\nReferenced from: <34A1F6DB-46E9-36E0-AD4B-48B493C455DD> /x/site-packages/mujoco_py/generated/cymj.so",
        "library-not-loaded",
        "cymj.so (of mujoco-py) is linked against libmujoco.2.1.1.dylib",
        "pip install mujoco",
    ),
    (
        G + "astral-sh/uv/issues/13512",
        "error: Distribution `torch==2.6.0 @ registry+https://pypi.org/simple` can't be installed because it doesn't have a source distribution or wheel for the current platform\n\nhint: You're on macOS (`macosx_15_0_x86_64`), but `torch` (v2.6.0) only has wheels for the following platforms: `manylinux_2_28_aarch64`, `manylinux1_x86_64`, `macosx_11_0_arm64`, `win_amd64`",
        "uv-wheel-tags",
        "torch v2.6.0 has no wheel for Intel Macs, and this Python is an x86-64 one",
        "cpython-3.12-macos-aarch64",
    ),
    (
        G + "astral-sh/uv/issues/12721",
        "hint: You're on macOS (`macosx_10_16_x86_64`), but `pyside6` (v6.9.0) only has wheels for the following platforms: `manylinux_2_28_x86_64`, `manylinux_2_39_aarch64`, `macosx_12_0_universal2`, `win_amd64`, `win_arm64`",
        "uv-wheel-tags",
        "want macOS 12 or newer",
        "a newer build of Python",
    ),
    (
        "uv: crates/uv-distribution-types",
        "hint: Wheels are available for `decord` (v0.6.0) on the following platforms: `manylinux2010_x86_64`, `win_amd64`",
        "uv-wheel-tags",
        "wheels for Linux, Windows only, none for a Mac",
        "decord ; sys_platform == 'linux'",
    ),
    (
        "uv: crates/uv-resolver",
        "hint: You're using CPython 3.13 (`cp313`), but `tensorflow` (v2.18.0) only has wheels with the following Python ABI tags: `cp39`, `cp310`, `cp311`, `cp312`",
        "uv-wheel-tags",
        "Python 3.9, 3.10, 3.11, 3.12 only",
        "uv python pin 3.12",
    ),
    (
        G + "astral-sh/uv/issues/5182",
        "error: distribution `pantsbuild-pants==2.23.1 @ direct+https://github.com/x/pantsbuild.pants-2.23.1-cp39-cp39-macosx_11_0_arm64.whl` can't be installed because the binary distribution is incompatible with the current platform",
        "uv-wheel-file",
        "Apple silicon, macOS 11 or newer, CPython 3.9",
        "python --version must say 3.9",
    ),
    (
        "pip: _internal/resolution",
        "ERROR: Package 'numba' requires a different Python: 3.13.0 not in '<3.13,>=3.9'",
        "python-out-of-range",
        "numba takes Python <3.13,>=3.9, and this Python is 3.13.0: too new",
        "Python 3.12 in a fresh environment",
    ),
    (
        "pip: _internal/resolution",
        "ERROR: Package 'mlx-vlm' requires a different Python: 3.9.6 not in '>=3.10'",
        "python-out-of-range",
        "this Python is 3.9.6: too old",
        "Python 3.12 in a fresh environment",
    ),
    (
        G + "haosulab/MPlib/issues/119",
        "ERROR: Could not find a version that satisfies the requirement libclang==11.0.1 (from versions: 11.1.0, 12.0.0, 18.1.1)\nERROR: No matching distribution found for libclang==11.0.1",
        "no-wheel-of-any",
        "pip sees libclang 11.1.0 to 18.1.1",
        "libclang==11.1.0 is the nearest",
    ),
    (
        "pip: _internal/operations/check.py",
        "mediapipe 0.10.14 requires protobuf<5,>=4.25.3, but you have protobuf 5.29.0 which is incompatible.",
        "pip-incompatible",
        "mediapipe asks for protobuf<5,>=4.25.3",
        "pip install 'protobuf<5,>=4.25.3'",
    ),
    (
        G + "zylon-ai/private-gpt/issues/197",
        "clang: error: the clang compiler does not support '-march=native'",
        "march-native",
        "a universal one",
        "ARCHFLAGS='-arch arm64'",
    ),
    (
        G + "aresch/rencode/issues/43",
        "clang: error: unsupported option '-msse2' for target 'arm64-apple-darwin25.2.0'",
        "x86-source",
        "Intel processors",
        "arm64 wheel",
    ),
    (
        G + "m-bain/whisperX/issues/109",
        'Undefined symbols for architecture arm64:\n  "std::exception_ptr::__from_native_exception_pointer(void*)", referenced from:\n      std::__1::promise<ctranslate2::TranslationResult>::~promise() in x.cc.o\n',
        "libcxx-mixed",
        "headers of a newer C++ library",
        "CXX=/usr/bin/clang++",
    ),
    (
        G + "urinieto/msaf/issues/114",
        "fatal error: 'umfpack.h' file not found",
        "header-missing",
        "does not find umfpack.h",
        "suite-sparse",
    ),
    (
        "glibc's header",
        "fatal error: 'sys/sysinfo.h' file not found",
        "header-without-ending",
        "Linux or gcc",
        "written for Linux",
    ),
    (
        "PyO3: pyo3-ffi/build.rs",
        "error: the configured Python interpreter version (3.13) is newer than PyO3's maximum supported version (3.12)",
        "pyo3-python-too-new",
        "takes Python up to 3.12",
        "Python 3.12 in a fresh environment",
    ),
    (
        G + "Ltamann/ComfyUI-TBG-ETUR/issues/38",
        "Cannot import /Volumes/S3F3/ComfyUI/custom_nodes/ComfyUI-TBG-ETUR module for custom nodes: No module named 'pygments'",
        "custom-node-import",
        "the Python package pygments",
        "python -m pip install",
    ),
    (
        G + "chychkan/DeepFaceLab_MacOS/issues/77",
        "RuntimeError: module compiled against API version 0xf but this version of numpy is 0xe",
        "numpy-c-api",
        "built against a newer NumPy",
        "pip install -U numpy",
    ),
    (
        G + "python-poetry/poetry/issues/5109",
        "dyld[16230]: Library not loaded: @executable_path/../Python3\n  Referenced from: /Users/x/Library/Application Support/pypoetry/venv/bin/python3\n  Reason: tried: '/usr/local/lib/Python3' (no such file)",
        "python-library-gone",
        "copying Apple's Python",
        "pipx install poetry",
    ),
    (
        G + "spacetelescope/stenv/issues/86",
        "  - package qt-main-5.15.8-hfe8d25c_6 requires libclang >=14.0.6,<15.0a0, but none of the providers can be installed",
        "conda-solver",
        "qt-main is the one",
        "conda-forge",
    ),
    (
        G + "IAHispano/Applio/issues/700",
        "PackagesNotFoundError: The following packages are not available from current channels:\n\n  - faiss-cpu==1.7.0\n",
        "conda-package-named",
        "conda has no faiss-cpu",
        "conda search -c conda-forge faiss-cpu",
    ),
    (
        G + "eckertzhang/HumanRef/issues/11",
        "PackagesNotFoundError: The following packages are not available from current channels:\n\n  - zstd==1.5.5=hc292b87_0\n  - zlib==1.2.13=h5eee18b_0\n",
        "conda-build-strings",
        "builds of another system",
        "Delete the build after the second =",
    ),
    (
        G + "ai2cm/fv3net/issues/2256",
        "arm64 on Darwin unsupported, quitting",
        "platform-refused",
        "nothing for this system or processor",
        "a fork with support for Macs",
    ),
    (
        G + "IAHispano/Applio/issues/700",
        "ERROR: Failed building wheel for faiss-cpu",
        "wheel-needs-library",
        "needs swig, libomp, faiss of Homebrew",
        "conda install -c conda-forge faiss-cpu",
    ),
    (
        G + "showlab/computer_use_ootb/issues/49",
        "AttributeError: dlsym(0x3e48556bc, objc_msgSendSuper_stret): symbol not found",
        "dlsym-not-found",
        "exist on Intel only",
        "should say arm64",
    ),
    (
        "GDAL's Python bindings: setup.py",
        "FileNotFoundError: [Errno 2] No such file or directory: 'gdal-config'",
        "config-program-missing",
        "gdal-config",
        "gdal-config: gdal",
    ),
    (
        G + "pytorch/executorch/issues/4078",
        'Undefined symbols for architecture arm64:\n  "c10::throwNullDataPtrError()", referenced from:\n      at::TensorBase',
        "undefined-symbols",
        "c10::throwNullDataPtrError() of torch's C++ libraries",
        "torch.utils.cmake_prefix_path",
    ),
    (
        G + "ashtons/dcmtk-ios/issues/3",
        'Undefined symbols for architecture arm64:\n  "_inflate", referenced from:\n      DcmZLibInputFilter::decompress(void const_, long)',
        "undefined-symbols",
        "_inflate of an image, font or compression library",
        "zlib's functions want -lz",
    ),
    (
        G + "Razakhel/RaZ/issues/60",
        '  "_png_init_filter_functions_neon", referenced from:\n      _png_read_filter_row in libRaZ.a(pngrutil.c.o)',
        "undefined-symbols",
        "libpng's part for ARM",
        "PNG_ARM_NEON_OPT=0",
    ),
    (
        G + "pytorch/pytorch/issues/84339",
        "ImportError: dlopen(/x/_C.so, 0x0002): symbol not found in flat namespace (__ZNK2at10TensorBase8data_ptrIlEEPT_v)",
        "flat-namespace-symbol",
        "of torch",
        "Write int64_t",
    ),
    (
        G + "pytorch/extension-cpp/issues/1",
        "ImportError: dlopen(/Users/g/lltm_cpp.cpython-36m-darwin.so, 2): Symbol not found: _THPVariableClass\n  Referenced "
        "from: /Users/g/lltm_cpp.cpython-36m-darwin.so\n  Expected in: flat namespace",
        "flat-namespace-symbol",
        "libtorch_python",
        "import torch first",
    ),
    (
        G + "python-poetry/poetry/issues/8800",
        "The lock file is not compatible with the current version of Poetry.",
        "pip-conflict-uv-poetry",
        "another release of Poetry",
        "poetry lock anew",
    ),
    (
        G + "open-mmlab/mmcv/issues/1729",
        "clang: error: no such file or directory: '/Users/v/mmcv-master/build/temp.macosx-11.0-arm64-3.9/./mmcv/ops/csrc/pytorch/sync_bn.o'",
        "object-file-missing",
        "failed further up",
        "Look at the first error",
    ),
    (
        G + "pyg-team/pytorch_geometric/issues/4549",
        "PackagesNotFoundError: The following packages are not available from current channels:\n\n  - pyg\n\nCurrent channels:\n",
        "conda-package-named",
        "conda has no pyg",
        "pip install torch_geometric",
    ),
    (
        "https://errorism.dev/issues/pypa-wheel-wheel-0360-fails-on-macos-11-big-sur-when-macosx_deployment_target11",
        '  File "/usr/local/lib/python3.9/site-packages/wheel/macosx_libfile.py", line 356, in calculate_macosx_platform_tag\n'
        "    assert len(base_version) == 2\nAssertionError",
        "wheel-of-old-pip",
        "holds one (11)",
        "MACOSX_DEPLOYMENT_TARGET=11.0",
    ),
    (
        G + "QwenAudio/CosyVoice/issues/90",
        "extensions/_pywrapfst.cpp:1291:10: fatal error: 'fst/util.h' file not found",
        "header-without-ending",
        "fst/util.h",
        "brew install openfst;",
    ),
    (
        G + "NVIDIA-NeMo/Speech/issues/7265",
        "extensions/_pywrapfst.cpp:11531:40: error: cannot cast from type 'std::string' (aka 'basic_string<char>') to pointer "
        "type 'PyObject *' (aka '_object *')",
        "clang-source-error",
        "refuses that line",
        "A wheel in place of the source",
    ),
    (
        G + "ShayneP/local-voice-ai/issues/21",
        "error: Distribution `kaldialign==0.9.1 @ registry+https://pypi.org/simple` can't be installed because it doesn't have a "
        "source distribution or wheel for the current platform\n\nhint: You're on macOS (`macosx_26_0_arm64`), but `kaldialign` "
        "(v0.9.1) only has wheels for the following platforms: `manylinux_2_17_x86_64`, `manylinux2014_x86_64`, `win_amd64`",
        "uv-wheel-tags",
        "none for a Mac and this Python",
        "where another Python has one",
    ),
    (
        "https://clang.llvm.org/docs/DiagnosticsReference.html (err_undeclared_var_use)",
        "src/affinity.cpp:10:5: error: unknown type name 'cpu_set_t'",
        "linux-source",
        "uses cpu_set_t, which Linux",
        "a fork that names macOS",
    ),
    (
        "https://clang.llvm.org/docs/DiagnosticsReference.html (err_no_member)",
        "src/a.cpp:2:3: error: no member named 'optional' in namespace 'std'",
        "cxx-standard-missing",
        "newer C++ than the compiler was told",
        "-std=c++17",
    ),
    (
        G + "invoke-ai/InvokeAI/issues/1941",
        "./install.sh: ./.venv/bin/configure_invokeai.py: /Volumes/Sabrent: bad interpreter: No such file or directory",
        "script-path-with-space",
        "a path with a space",
        "no space",
    ),
    (
        G + "huggingface/tokenizers/issues/1036",
        "No local packages or working download links found for tokenizers==0.12.1.dev0",
        "easy-install-finds-nothing",
        "easy_install",
        "python -m pip install .",
    ),
    (
        G + "homebrew-ffmpeg/homebrew-ffmpeg/issues/190",
        "dyld[37766]: Library not loaded: /opt/homebrew/opt/ffmpeg/lib/libavcodec.61.dylib\n  Referenced from: "
        "<0427B474-C590-3255-85D5-9F517AE9D6B2> /usr/local/lib/libgpac.12.16.0.dylib\n",
        "ffmpeg-libraries",
        "libavcodec.61 belongs to FFmpeg 7",
        "install it again",
    ),
    (
        G + "deezer/spleeter/issues/607",
        "arch: posix_spawnp: pip: Bad CPU type in executable",
        "bad-cpu-type",
        "the other architecture",
        "arch -x86_64 starts only what has an Intel half",
    ),
    (
        G + "isl-org/Open3D/issues/5607",
        "ImportError: dlopen(/opt/homebrew/x/lib/python3.9/site-packages/open3d/cpu/pybind.cpython-39-darwin.so, 0x0002): symbol not "
        "found in flat namespace '_quadmath_snprintf'",
        "flat-namespace-symbol",
        "GNU Fortran's runtime",
        "a newer release of open3d",
    ),
    (
        G + "isl-org/Open3D/issues/5655",
        "ImportError: dlopen(/x/site-packages/open3d/cpu/pybind.cpython-37m-darwin.so, 0x0002): Library not loaded: "
        "'/usr/local/opt/libomp/lib/libomp.dylib'\n  Referenced from: '/x/site-packages/open3d/cpu/pybind.cpython-37m-darwin.so'",
        "homebrew-library-gone",
        "a library of Homebrew",
        "brew install libomp",
    ),
    (
        G + "StructuredLabs/preswald/issues/143",
        "• Installing psycopg2-binary (2.9.10): Failed\n\n  ChefBuildError\n\n  Backend subprocess exited when trying to invoke "
        "get_requires_for_build_wheel",
        "pip-build-step",
        "no wheel of psycopg2-binary",
        "--only-binary :all: psycopg2-binary",
    ),
    (
        G + "pyenv/pyenv/issues/1737",
        "BUILD FAILED (OS X 12.1 using python-build 20180424)",
        "python-build-failed",
        "pyenv itself is old",
        "brew upgrade pyenv",
    ),
    (
        "https://github.com/Homebrew/brew (Library/Homebrew/extend/os/mac/diagnostic.rb)",
        "Error: Your Command Line Tools are too outdated.",
        "homebrew-tools-old",
        "wants newer command line tools",
        "xcode-select --install",
    ),
    (
        "https://github.com/Homebrew/brew (Library/Homebrew/diagnostic.rb)",
        "Warning: Unbrewed header files were found in /usr/local/include.",
        "homebrew-doctor-notes",
        "nothing fails by it alone",
        "Only if something fails",
    ),
    (
        "https://github.com/Homebrew/brew (Library/Homebrew/brew.sh)",
        "Error: Running Homebrew as root is extremely dangerous and no longer supported.",
        "homebrew-as-root",
        "started with sudo",
        "without sudo",
    ),
    (
        "https://github.com/conda/conda (conda/exceptions.py)",
        "DirectoryNotACondaEnvironmentError: The target directory exists, but it is not a conda environment.",
        "conda-prefix-exists",
        "exists already",
        "conda env remove -n NAME",
    ),
    (
        "https://github.com/conda/conda (conda/exceptions.py)",
        "NoWritableEnvsDirError: No writeable envs directories configured.",
        "conda-locked-or-offline",
        "belong to another user",
        "sudo chown",
    ),
    (
        "https://github.com/astral-sh/uv (crates/uv-fs/src/link.rs)",
        "warning: Failed to hardlink files; falling back to full copy. This may lead to degraded performance.",
        "uv-hardlink",
        "lie on two disks",
        "UV_LINK_MODE=copy",
    ),
    (
        "https://github.com/pypa/pip (src/pip/_internal/req/req_install.py)",
        "ERROR: Double requirement given: numpy==1.26 (already in numpy==1.24, name='numpy')",
        "pip-doubled",
        "name one package twice",
        "Delete one of the two",
    ),
]

#: The same of applications and of the libraries that they stand on.
APPLICATIONS = [
    (
        "https://github.com/nerfstudio-project/nerfstudio (scripts/train.py)",
        "RuntimeError: Specified device type 'cuda' is not available. Available device types: ['cpu', 'mps']. Please specify a valid "
        "device type using the CLI option",
        "device-type-not-there",
        "started for CUDA",
        "--machine.device-type mps",
    ),
    (
        "https://github.com/Comfy-Org/ComfyUI (comfy/ldm/modules/attention.py)",
        "RuntimeError: Not enough memory, use lower resolution (max approx. 640x640). Need: 3.2GB free, Have:2.1GB free",
        "comfyui-attention-memory",
        "too little free memory",
        "--use-pytorch-cross-attention",
    ),
    (
        "https://github.com/NVIDIA-NeMo/NeMo (examples/asr/transcribe_speech.py)",
        "MPS device (Apple Silicon M-series GPU) support is experimental. Env variable `PYTORCH_ENABLE_MPS_FALLBACK=1` should be set "
        "in most cases to avoid failures.",
        "mps-experimental-note",
        "tried little on Macs",
        "PYTORCH_ENABLE_MPS_FALLBACK=1",
    ),
    (
        "https://github.com/Lightning-AI/pytorch-lightning (trainer/configuration_validator.py)",
        "NotImplementedError: Support for `validation_epoch_end` has been removed in v2.0.0. `LatentDiffusion` implements this method.",
        "lightning-hook-gone",
        "older Lightning",
        "pytorch-lightning<2",
    ),
    (
        "https://github.com/Comfy-Org/ComfyUI-Manager (glob/manager_server.py)",
        "[ComfyUI-Manager] Failed to perform initial fetching 'custom-node-list.json': timed out",
        "comfyui-manager-failed",
        "could not fetch or install",
        "git pull",
    ),
    (
        G + "mworion/MountWizzard4/issues/229",
        "ImportError: cannot import name 'soft_unicode' from 'markupsafe'",
        "import-name",
        "markupsafe removed it in 2.1",
        "markupsafe<2.1",
    ),
    (
        G + "pwalch/lonesnake/issues/2",
        "ModuleNotFoundError: No module named '_lzma'",
        "module-missing",
        "was built without _lzma",
        "brew install xz",
    ),
    (
        "https://docs.python.org/3/whatsnew/3.13.html (PEP 594)",
        "ModuleNotFoundError: No module named 'pyaudioop'",
        "module-not-installed",
        "Python 3.13 removed audioop",
        "audioop-lts",
    ),
    (
        "https://pillow.readthedocs.io/en/stable/deprecations.html (constants)",
        "AttributeError: module 'PIL.Image' has no attribute 'ANTIALIAS'",
        "module-attribute-gone",
        "Pillow removed it in 10",
        "pillow<10",
    ),
    (
        G + "deepinsight/insightface/issues/2682",
        "Skip /Users/r/ComfyUI/custom_nodes/insightface module for custom nodes due to the lack of NODE_CLASS_MAPPINGS.",
        "comfyui-notes",
        "that folder in custom_nodes is no node",
        "move it out of custom_nodes",
    ),
    (
        G + "deezer/spleeter/issues/607",
        "2022-11-23 11:55:30.302187: F tensorflow/c/experimental/stream_executor/stream_executor.cc:823] Non-OK-status: "
        "stream_executor::MultiPlatformManager",
        "tensorflow-metal-twice",
        "loaded twice",
        "pip uninstall tensorflow",
    ),
    (
        G + "Kamlesh364/Mask-RCNN-TF2.7.0-keras2.7.0/issues/16",
        "2022-09-23 14:43:43.435382: W tensorflow/core/common_runtime/forward_type_inference.cc:332] Type inference failed. This "
        "indicates an invalid graph that escaped type checking.",
        "tensorflow-metal-notes",
        "Nothing is wrong by them",
        "Nothing must be done",
    ),
    (
        G + "RVC-Project/Retrieval-based-Voice-Conversion-WebUI/issues/2676",
        "Command '['pip', 'install', '--upgrade', 'fairseq']' returned non-zero exit status 1.",
        "child-process-failed",
        "in its own output above",
        "run that command by itself",
    ),
    (
        G + "facebookresearch/pytorch3d/issues/1348",
        "ModuleNotFoundError: No module named 'pytorch3d'",
        "compiled-package-incomplete",
        "pytorch3d",
        "git+https://github.com/facebookresearch/pytorch3d.git",
    ),
    (
        G + "PaddlePaddle/PaddleOCR/issues/16249",
        "No stack trace in paddle, may be caused by external reasons.\n\nFatalError: `Segmentation fault` is detected by the "
        "operating system.",
        "paddle-crash",
        "Paddle's own code crashed",
        "enable_mkldnn=False",
    ),
    (
        G + "hacksider/Deep-Live-Cam/issues/955",
        "Frame processor face_enhancer not found",
        "frame-processor-missing",
        "could not be imported",
        "prints the true error",
    ),
    (
        G + "PaddlePaddle/PaddleOCR/issues/15494",
        "进程已结束，退出代码为 139 (interrupted by signal 11:SIGSEGV)",
        "exit-by-signal",
        "a bad memory access",
        "python -X faulthandler",
    ),
    (
        G + "Stability-AI/StableSwarmUI/issues/400",
        "22:28:32.318 [Warning] ComfyUI Install (Linux Script) stderr: ERROR: python venv is not installed",
        "webui-setup",
        "cannot make environments",
        "in a folder without spaces",
    ),
    (
        G + "llnl/Abmarl/issues/453",
        "pyarrow.lib.ArrowInvalid: URI has empty scheme: 'output_dir/abmarl_results/PredatorPreyResources_2024-04-03_07-00'",
        "ray-relative-path",
        "takes a whole path",
        "os.path.abspath",
    ),
    (
        G + "ray-project/ray/issues/29691",
        "(RolloutWorker pid=85856) ValueError: The two structures don't have the same nested structure.",
        "gym-interface-changed",
        "reset() returns (obs, info)",
        "gymnasium in place of gym",
    ),
    (
        G + "bmaltais/kohya_ss/issues/328",
        "The operation couldn’t be completed. Unable to locate a Java Runtime.",
        "java-missing",
        "a script for Ubuntu",
        "brew install openjdk",
    ),
    (
        G + "nerfstudio-project/nerfstudio/pull/3266",
        '  File "/x/site-packages/gsplat/cuda/_wrapper.py", line 12, in call_cuda\n    return getattr(_C, name)(*args, **kwargs)\n'
        "AttributeError: 'NoneType' object has no attribute 'fully_fused_projection_fwd'",
        "compiled-part-none",
        "compiled part is not there",
        "OpenSplat",
    ),
    (
        G + "RVC-Project/Retrieval-based-Voice-Conversion-WebUI/issues/759",
        "ValueError: need at least one array to concatenate",
        "data-empty",
        "got no data at all",
        "run the earlier step",
    ),
    (
        "https://github.com/RVC-Boss/GPT-SoVITS/issues/329 (the line), https://github.com/python/cpython (Lib/os.py: the error)",
        '    os.environ["CUDA_VISIBLE_DEVICES"]= os.environ.get("_CUDA_VISIBLE_DEVICES")\nTypeError: str expected, not NoneType',
        "environment-none",
        "number of a CUDA device",
        "set the variable",
    ),
    (
        G + "Comfy-Org/ComfyUI/issues/14670",
        "[WARNING] Could not autodetect AIMDO implementation, assuming Nvidia\n[INFO] comfy-aimdo unsupported operating system: Darwin",
        "comfyui-notes",
        "AIMDO, that is not available is normal",
        "Nothing must be done",
    ),
    (
        G + "Comfy-Org/ComfyUI/issues/14670",
        "RuntimeError: host_statistics64(HOST_VM_INFO64) syscall failed: (ipc/mig) array not large enough",
        "psutil-older-than-macos",
        "older than this macOS",
        "pip install -U psutil",
    ),
    (
        G + "divamgupta/diffusionbee-stable-diffusion-ui/issues/29",
        "Uncaught Exception:\nTypeError: Object has been destroyed\nat IpcMainImpl.<anonymous> "
        "(/Applications/DiffusionBee.app/Contents/Resources/app.asar/background.js:2:240352)",
        "electron-app-ended",
        "lost the program that computes",
        "Contents/MacOS/NAME",
    ),
    (
        G + "kaixxx/noScribe/issues/14",
        "objc[2303]: Invalid or prematurely-freed autorelease pool 0x7fae5f86dcb8. Set a breakpoint on objc_autoreleasePoolInvalid "
        "to debug. Proceeding anyway because the app is old (SDK version 10.9.0).",
        "window-note",
        "nothing for the computation",
        "a newer Python",
    ),
    (
        G + "m-bain/whisperX/issues/723",
        "ImportError: 'speechbrain' must be installed to use 'speechbrain/spkrec-ecapa-voxceleb' embeddings. Visit "
        "https://speechbrain.github.io for installation instructions.",
        "pyannote-speechbrain",
        "speechbrain from 1.0 on",
        "speechbrain==0.5.16",
    ),
    (
        "https://github.com/lllyasviel/stable-diffusion-webui-forge (mmcv/fileio/file_client.py)",
        "ImportError: Please install lmdb to enable LmdbBackend.",
        "package-must-be-installed",
        "wants the package lmdb",
        "python -c 'import lmdb'",
    ),
    (
        G + "jax-ml/jax/issues/16366",
        "INFO:jax._src.xla_bridge:Unable to initialize backend 'tpu': INTERNAL: Failed to open libtpu.so: "
        "dlopen(libtpu.so, 0x0001): tried: 'libtpu.so' (no such file)",
        "jax-backend-notes",
        "no TPU",
        "Nothing must be done",
    ),
    (
        G + "keras-team/keras/issues/19059",
        '/x.py:12:0: note: see current operation: %7 = "mhlo.pad"(%5, %6) : (tensor<1xf32>) -> tensor<3xf32>',
        "jax-metal-operation",
        "could not translate that operation",
        "JAX_PLATFORMS=cpu",
    ),
    (
        G + "GeorgLegato/stable-diffusion-webui-vectorstudio/issues/1",
        "Error loading script: vectorstudio.py",
        "extension-not-loaded",
        "the traceback after it says why",
        "Paste the lines after it",
    ),
    (
        G + "pycontw/pycon-etl/issues/46",
        "/x/site-packages/pandas/compat/__init__.py:124: UserWarning: Could not import the lzma module. Your installed Python "
        "is incomplete. Attempting to use lzma compression will result in a RuntimeError.",
        "python-part-missing",
        "built by pyenv or from source without",
        "brew install xz",
    ),
    (
        G + "gia-guar/JARVIS-ChatGPT/issues/15",
        "||PaMacCore (AUHAL)|| Error on line 2523: err='-50', msg=Unknown Error",
        "portaudio-codes",
        "microphone that macOS has not allowed",
        "Microphone: allow the terminal",
    ),
    (
        G + "PKU-Alignment/safety-gymnasium/issues/119",
        "gymnasium.error.DependencyNotInstalled: You are running an x86_64 build of Python on an Apple Silicon machine. This is not supported by MuJoCo. Please install and run a native, arm64 build of Python.. (HINT: you need to install mujoco",
        "x86-python-on-apple-silicon",
        "an Intel one under Rosetta",
        "CONDA_SUBDIR=osx-arm64",
    ),
    (
        G + "google-deepmind/mujoco/issues/93",
        "You appear to be missing MuJoCo.  We expected to find the file here: /Users/x/.mujoco/mujoco210",
        "mujoco-py",
        "no longer kept",
        "pip install mujoco 'gymnasium[mujoco]'",
    ),
    (
        G + "invoke-ai/InvokeAI/issues/517",
        "AttributeError: module 'pytorch_lightning.loggers' has no attribute 'TestTubeLogger'. Did you mean: 'NeptuneLogger'?",
        "lightning-name-gone",
        "1.7 dropped TestTubeLogger",
        "pytorch-lightning<1.7",
    ),
    (
        G + "AUTOMATIC1111/stable-diffusion-webui/issues/4599",
        'RuntimeError: Couldn\'t install torch.\nCommand: "/x/venv/bin/python3" -m pip install torch==1.12.1+cu113 torchvision==0.13.1+cu113 --extra-index-url https://download.pytorch.org/whl/cu113',
        "installer-cuda-build",
        "build of torch for NVIDIA",
        "TORCH_COMMAND='pip install torch torchvision'",
    ),
    (
        G + "voicepaw/so-vits-svc-fork/issues/112",
        "soundfile.LibsndfileError: Error opening 'dataset_raw/**/.DS_Store': Format not recognised.",
        "finder-file-in-data",
        "macOS's Finder",
        ".DS_Store -delete",
    ),
    (
        G + "rougier/freetype-py/issues/145",
        "RuntimeError: Freetype library not found",
        "library-said-missing",
        "the library Freetype of the system",
        "DYLD_FALLBACK_LIBRARY_PATH",
    ),
    (
        G + "AUTOMATIC1111/stable-diffusion-webui/issues/2104",
        "Warning: caught exception 'Torch not compiled with CUDA enabled', memory monitor disabled",
        "webui-notes",
        "it goes on",
        "Nothing must be done",
    ),
    (
        G + "tensorflow/tensorflow/issues/54308",
        "F tensorflow/core/framework/tensor.cc:681] Check failed: IsAligned() ptr = 0x306a33ff0",
        "tensorflow-aligned",
        "a fault of the plugin",
        "pip uninstall tensorflow-metal",
    ),
    (
        G + "divamgupta/diffusionbee-stable-diffusion-ui/issues/438",
        "-[MTLHeapDescriptorInternal validateWithDevice:]:344: failed assertion `Heap Descriptor Validation\nPlacement heap type is not supported.",
        "metal-heap-unsupported",
        "no placement heaps",
        "Apple silicon for the GPU",
    ),
    (
        G + "divamgupta/diffusionbee-stable-diffusion-ui/issues/432",
        "Backend quit unexpectedly. llocatorIcEEE3strEv\nReferenced from: /x/_ufuncs_cxx.cpython-39-darwin.so (which was built for Mac OS X 12.0)\nExpected in: /usr/lib/libc++.1.dylib\n[1128] Failed to execute script 'diffusionbee_backend' due to unhandled exception!",
        "app-for-newer-macos",
        "newer macOS than this one",
        "Update macOS",
    ),
    (
        G + "grpc/grpc/issues/25177",
        "ASM Builds for BoringSSL currently not supported on: macosx-11-arm64",
        "boringssl-on-arm",
        "grpcio is compiled from source",
        "A newer grpcio",
    ),
    (
        G + "m-bain/whisperX/issues/132",
        "UserWarning: Failed to import soundfile. 'soundfile' backend is not available.",
        "soundfile-missing",
        "no soundfile",
        "pip install -U soundfile",
    ),
    (
        G + "datalab-to/marker/issues/847",
        "ERROR - Conversion failed: stack expects a non-empty TensorList",
        "several-pictures-sizes",
        "nothing was found to stack",
        "TORCH_DEVICE=cpu",
    ),
    (
        "ultralytics: C3k2 came with 8.3",
        "AttributeError: Can't get attribute 'C3k2' on <module 'ultralytics.nn.modules.block' from '/x/block.py'>",
        "weights-of-other-release",
        "ultralytics.nn.modules.block of the installed one has no C3k2",
        "pip install -U ultralytics",
    ),
    (
        "stable-diffusion-webui: modules/launch_utils.py",
        "INCOMPATIBLE PYTHON VERSION",
        "webui-python",
        "another Python than it is made for",
        "python@3.10",
    ),
    (
        "kohya-ss/sd-scripts: library/train_util.py",
        "ImportError: No bitsandbytes / bitsandbytesがインストールされていないようです",
        "trainer-precision-options",
        "for CUDA",
        "--optimizer_type AdamW",
    ),
    (
        "mujoco: mujoco/viewer.py",
        "RuntimeError: `launch_passive` requires that the Python script be run under `mjpython` on macOS",
        "mujoco-mjpython",
        "main thread",
        "mjpython script.py",
    ),
    (
        G + "VAST-AI-Research/TripoSR/issues/3",
        "AttributeError: module 'torchmcubes_module' has no attribute 'mcubes_cuda'. Did you mean: 'mcubes_cpu'?",
        "module-without-cuda-part",
        "built without CUDA",
        "Move the tensors to the CPU",
    ),
    (
        G + "YBYBZhang/ControlVideo/issues/22",
        "ValueError: depth is not a valid processor id. Please make sure to choose one of scribble_hed, depth_midas, mlsd, canny.",
        "choice-not-listed",
        "does not know that name in this release",
        "Take one from the list",
    ),
    (
        G + "scikit-image/scikit-image/issues/6667",
        "../../meson.build:1:0: ERROR: Unknown compiler(s): [['cpp', '-arch', 'arm64']]",
        "meson-compiler",
        "no C or C++ compiler that works",
        "xcode-select --install",
    ),
    (
        G + "scipy/scipy/issues/16974",
        "ModuleNotFoundError: No module named 'mesonpy'",
        "module-not-installed",
        "does not have mesonpy",
        "pip install meson-python",
    ),
    (
        "Python: a missing part of a package that is there",
        "ModuleNotFoundError: No module named 'mypackage.parts'",
        "module-not-installed",
        "mypackage itself was found, and it has no part parts",
        "mypackage.__file__",
    ),
    (
        G + "ZToolsCenter/ZTools/issues/483",
        "“ZTools.app”已损坏，无法打开。 你应该将它移到废纸篓。",
        "gatekeeper-other-languages",
        "not notarised",
        "xattr -cr",
    ),
    (
        G + "Nixtla/neuralforecast/issues/621",
        "RuntimeError: b'GCS has started but no raylets have registered yet.'",
        "ray-start",
        "did not start or died",
        "--no-cache-dir grpcio",
    ),
    (
        G + "PaddlePaddle/PaddleOCR/issues/16179",
        "segmentation fault  paddleocr pp_structurev3 -i",
        "crash",
        "bad memory access",
        "faulthandler",
    ),
    (
        G + "scikit-learn/scikit-learn/issues/29040",
        "ERROR: Disabling PEP 517 processing is invalid: project specifies a build backend of mesonpy in pyproject.toml",
        "pip-flags",
        "do not fit",
        "Leave the option out",
    ),
]


@pytest.mark.parametrize(
    ("link", "text", "message", "means", "fix"),
    TEXTS + APPLICATIONS,
    ids=[f"{one[2]}-{i}" for i, one in enumerate(TEXTS + APPLICATIONS)],
)
def test_a_failed_installation_names_its_parts(
    link: str, text: str, message: str, means: str, fix: str
) -> None:
    found = explain(text).findings
    assert [one.message for one in found] == [message], link
    assert means in found[0].means
    assert fix in found[0].fix


@pytest.mark.parametrize(
    "text",
    [
        "error: use of undeclared identifier 'foo'",
        "error: no member named 'size' in 'MyStruct'",
        "Package foo requires bar",
        "clang --version",
        "the header is only meant for tests",
        "Wheels are great: `a`",
        "Symbols not found",
        "HTTP error 500",
        "building for the future",
        "AttributeError: 'NoneType' object has no attribute 'split'",
        "Warning: file not found",
        "TypeError: foo() takes no arguments",
        "SyntaxError: invalid syntax",
        "the model is on the GPU",
    ],
)
def test_what_only_resembles_a_failed_build_gives_nothing(text: str) -> None:
    assert explain(text).findings == ()


def test_a_path_names_the_package_of_its_file() -> None:
    assert package_of("/x/lib/python3.11/site-packages/cv2/cv2.abi3.so") == "opencv-python"
    assert package_of("/x/site-packages/tokenizers/tokenizers.so") == "tokenizers"
    assert package_of("/usr/lib/libSystem.B.dylib") == ""


#: Parts of patterns whose names an answer uses as ordinary words, or as what its reader has to fill in.
_FOR_THE_READER = {"NAME", "PATH", "FILE", "URL", "TAG", "SDK", "LFS", "MODEL", "IOAF"}

_PLACE = re.compile(
    r"(?<![\w$-])(?:PACKAGE|LIBRARY|SYMBOL|MODULE|HEADER|WANTED|FORMULA|CRATE|ATTRIBUTE|EXTRA)\b"
)


def test_no_message_leaves_a_place_empty_when_nothing_is_named() -> None:
    for message in messages():
        said = " ".join(advice(message.id, {}, message.means, message.fix))
        parts = {name.rstrip("0123456789").upper() for name in message.regex.groupindex} - _FOR_THE_READER
        assert not parts.intersection(re.findall(r"(?<![\w$])[A-Z]{3,}\b", said)), message.id
        assert not _PLACE.search(said), message.id


@pytest.mark.parametrize("text", [entry[1] for entry in [*TEXTS, *REAL]])
def test_no_answer_shows_a_place_that_is_not_filled(text: str) -> None:
    for finding in explain(text).findings:
        answer = f"{finding.means} {finding.fix}"
        assert not _PLACE.search(answer), finding.message
        assert not re.search(r"\ba (?=[aeio]\w|<)", answer.replace("a one", "")), finding.message


@pytest.mark.parametrize(
    "text",
    [
        '    os.environ["A"] = x y z                  \n' * 400 + "str expected, not NoneType",
        "Uncaught Exception:   \n   at foo bar   \n" * 400 + "Object has been destroyed",
        "Library not loaded: 'x'\n  Referenced from: y\n" * 400,
    ],
)
def test_long_pastes_that_almost_match_are_read_quickly(text: str) -> None:
    begin = time.perf_counter()
    explain(text)
    assert time.perf_counter() - begin < 5
