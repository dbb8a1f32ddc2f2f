# ruff: noqa: E501, RUF001 (texts stay as they were written)
"""Texts as they stand in the sources of MLX, coremltools and ExecuTorch, in Apple's headers and in public threads.

Each has an answer with the right cause and the right fix.
"""

import pytest

from mpsprobe.knowledge.explain import explain

#: Text, message, a piece of what it means, a piece of the fix. Above each group: where the texts stand.
TEXTS = [
    # MTLCommandBuffer.h
    ('Error Domain=MTLCommandBufferErrorDomain Code=1 "Internal Error"', "gpu-error-code", "driver", "first"),
    ('Error Domain=MTLCommandBufferErrorDomain Code=2 "Timeout"', "gpu-timeout-code", "watchdog", "Smaller"),
    ('Error Domain=MTLCommandBufferErrorDomain Code=3 "Fault"', "gpu-page-fault-code", "outside its", "CPU"),
    ('Error Domain=MTLCommandBufferErrorDomain Code=7 "Not"', "gpu-work-in-background", "background", "iOS"),
    ('Error Domain=MTLCommandBufferErrorDomain Code=8 "Out"', "gpu-memory-code", "share", "less memory"),
    ("Caused GPU Hang Error (IOAF code 3)", "gpu-error-code", "hung", "first"),
    # Metal's compiler and validation
    (
        "Threadgroup memory size (34816) exceeds the maximum threadgroup memory allowed (32768)",
        "metal-threadgroup-memory",
        "32 KB",
        "smaller tiles",
    ),
    (
        "SyntaxError: program_source:1:1: error: unknown type name 'What'\nWhat\n^",
        "metal-source-error",
        "refuses the Metal source",
        "correct that line",
    ),
    (
        "program_source:19:9: error: expected ')'\n        auto tmp10 = tmp8 ? tmp9 : 0.0;",
        "metal-source-of-inductor",
        "torch.compile",
        "torch.compiler.disable",
    ),
    (
        "metal_matrix:20:83: error: failed requirement 'is_scalar<_MLX_BFloat16>::value'; 'enable_if' cannot",
        "metal-bfloat-requirement",
        "macOS 14",
        "float16",
    ),
    (
        "-[_MTLCommandEncoder dealloc]: failed assertion 'Command encoder released without endEncoding'",
        "metal-encoder-released",
        "before this line",
        "endEncoding",
    ),
    # FoundationErrors.h, NSURLError.h, errno.h
    ('Error Domain=NSCocoaErrorDomain Code=260 "The file couldn’t be opened"', "cocoa-file-missing", "there", "whole"),
    ('Error Domain=NSCocoaErrorDomain Code=257 "permission"', "cocoa-no-permission", "privacy", "Full Disk"),
    ('Error Domain=NSCocoaErrorDomain Code=3840 "Unable to parse"', "cocoa-file-broken", "JSON", "Delete"),
    ('Error Domain=NSCocoaErrorDomain Code=516 "exists"', "cocoa-file-exists", "earlier run", "rm -rf"),
    ('Error Domain=NSCocoaErrorDomain Code=640 "out of space"', "cocoa-volume-full", "full", "TMPDIR"),
    ('Error Domain=NSCocoaErrorDomain Code=4099 "connection to service"', "cocoa-xpc", "service", "again"),
    ('Error Domain=NSPOSIXErrorDomain Code=24 "Too many open files"', "posix-memory-or-files", "256", "ulimit"),
    ('Error Domain=NSPOSIXErrorDomain Code=65 "No route to host"', "posix-network", "macOS 15", "Local Network"),
    ('Error Domain=NSURLErrorDomain Code=-1001 "The request timed out."', "posix-network", "network", "again"),
    # crash reports
    ("Exception Type:  EXC_CRASH (SIGKILL (Code Signature Invalid))", "code-signature-invalid", "sign", "codesign"),
    ("Termination Reason:    Namespace DYLD, Code 1 Library missing", "crash-report-library-missing", "loader", "brew"),
    ("Termination Reason:    Namespace DYLD, Code 4 Symbol missing", "crash-report-symbol-missing", "newer", "/usr/lib"),
    ("Termination Reason:    Namespace JETSAM, Code 2", "crash-report-memory", "memory", "smaller"),
    ("Exception Message:     Thread stack size exceeded due to excessive recursion", "crash-report-stack", "512", "64"),
    ("BUG IN CLIENT OF LIBDISPATCH: trying to lock recursively", "libdispatch-misuse", "fork", "spawn"),
    ("BUG IN CLIENT OF LIBMALLOC: memory corruption of free block", "heap-damaged", "heap", "frames"),
    ("Apple could not verify “libc10.dylib” is free of malware that may harm", "gatekeeper-malware", "notarised", "xattr"),
    ("resource fork, Finder information, or similar detritus not allowed", "codesign-extended-attributes", "iCloud", "-cr"),
    # CoreAudio
    ("AudioObjectGetPropertyDataSize: no object with given ID 93", "audio-device-gone", "unplugged", "anew"),
    # Core ML and coremltools 9
    (
        "ValueError: State model is supported only >= iOS18. Please update the minimum_deployment_target to at least "
        "coremltools.target.iOS18",
        "coreml-target-too-old",
        "iOS 18 is macOS 15",
        "minimum_deployment_target",
    ),
    ("AssertionError: torch conv stride must be constant", "coreml-op-limits", "narrower", "fixed shapes"),
    ("NotImplementedError: Core ML only supports tensor rank <= 5.", "coreml-op-limits", "5 at most", "other terms"),
    (
        "ValueError: tensor value type should be compatible with type np.ndarray, got <class 'numpy.float32'> instead",
        "coreml-trace-values",
        "NumPy",
        "coremltools",
    ),
    ("ValueError: Number of TorchScript inputs (1) must match the user", "coreml-convert-arguments", "traced", "trace("),
    (
        'Error Domain=com.apple.CoreML Code=1 "MultiArray shape (1 x 3) does not match the shape (1 x 3 x 224) '
        'specified in the model description"',
        "coreml-input-shape",
        "RangeDim",
        "pad or resize",
    ),
    (
        'RuntimeWarning: You will not be able to run predict() on this Core ML model. Underlying exception message '
        'was: Error compiling model: "The file couldn’t be saved.".',
        "coreml-cannot-save",
        "temporary folder",
        "TMPDIR",
    ),
    # ExecuTorch: runtime/core/error.h, backends/apple
    ("RuntimeError: Failed to load method forward_32, error: 0x:23", "executorch-program-invalid", "InvalidProgram", "Export"),
    ("RuntimeError: Failed to load method forward, error: 0x14", "executorch-operator-missing", "kernel", "Import"),
    ("RuntimeError: Failed to execute method forward, error: 0x12", "executorch-arguments", "dtype", "example"),
    ("RuntimeError: Failed to load program, error: 0x20", "executorch-not-found", "backend", "registered"),
    (
        "NotImplementedError: CoreML does not support the op aten.foo, but you have set lower_full_graph=True in the "
        "CoreMLPartitioner. Please set lower_full_graph=False",
        "executorch-lowering",
        "lacks",
        "lower_full_graph=False",
    ),
    # MLX 0.32, mlx-lm, mlx-vlm
    ("TypeError: generate_step() got an unexpected keyword argument 'temp'", "mlx-generate-arguments", "sampler", "make_sampler"),
    ("ValueError: [Primitive::vjp] Not implemented for CustomKernel.", "mlx-no-gradient", "gradient", "LoRA"),
    ("RuntimeError: [QuantizedMatmul::vjp] no gradient wrt the quantized weights.", "mlx-no-gradient", "quantised", "LoRA"),
    ("ValueError: boolean indices are not yet supported", "mlx-array-use", "masks", "mx.where"),
    (
        "ValueError: Item size 2 for PEP 3118 buffer format string B does not match the dtype B item size 1.",
        "mlx-array-use",
        "bfloat16",
        "float32",
    ),
    ("ValueError: [erfinv] Not supported for complex64.", "mlx-more-checks", "dtype", "Correct"),
    ("RuntimeError: [gpu::eval] GPU backend is not available", "mlx-no-gpu-build", "no GPU", "arm64"),
    (
        "ValueError: Model type qwen3_vl not supported. Error: No module named 'mlx_vlm.models.qwen3_vl'",
        "mlx-model-architecture",
        "architecture",
        "-U mlx-lm mlx-vlm",
    ),
    ("ValueError: Image features and image tokens do not match: tokens: 1024, features 256", "mlx-vlm-images", "markers", "num_images"),
    ("ValueError: packed token mask must be int32 with one complete row per token", "mlx-vlm-checks", "cache", "-U mlx"),
    ("[ERROR] mac-mini-1 does not seem to have RDMA enabled", "mlx-cluster-setup", "Thunderbolt 5", "ring"),
    # public threads, second round
    ('panic(cpu 12 caller 0xfffffe004ad1f968): "completeMemory() prepare count underflow" @IOGPUMemory.cpp:550', "kernel-panic-gpu", "kernel", "wired"),
    ("watchdog timeout: no checkins from watchdogd in 93 seconds", "kernel-panic-watchdog", "WindowServer", "Smaller"),
    ('panic(cpu 2 caller 0xffffff801af53db5): mp_rv_action() entry: 6 of 8 responses @mp.c:902', "kernel-panic", "driver", "Update"),
    ("validateComputeFunctionArguments:1056: failed assertion `Compute Function(kernel_soft_max_4): missing buffer binding at index 1 for src1[0].'", "metal-validation", "validation", "newer"),
    ('Error Domain=AGXMetalA12 Code=3 "Encountered unlowered function call to air.simd_max.f32"', "metal-function-of-newer-gpu", "SIMD group", "CPU"),
    # crash reports: frames and queues; the loader; how a child process ended
    ("Thread 22 Crashed:: Dispatch queue: com.Metal.CompletionQueueDispatch\n0 libsystem_kernel.dylib __pthread_kill + 8", "crash-in-queue", "MLX raises", "less memory"),
    ("Triggered by Thread: 22, Dispatch Queue: com.Metal.CompletionQueueDispatch", "crash-in-queue", "MLX raises", "less memory"),
    ("5 libc++abi.dylib 0x18 std::terminate() + 108\n6 libmlx.dylib 0x10a mlx::core::gpu::check_error(MTL::CommandBuffer*) + 268", "mlx-crash-of-gpu-error", "nothing can catch", "0.32"),
    ("3 Metal 0x1a4 MTLReportFailure + 576\n4 Metal 0x1a5 -[_MTLCommandBuffer addCompletedHandler:] + 104\n5 libmlx.dylib 0x10 mlx::core::gpu::eval(mlx::core::array&) + 500", "mlx-crash-of-threads", "two threads", "One thread"),
    ("0 libmlx.dylib 0x10a mlx::core::metal::MetalAllocator::malloc(unsigned long) + 420", "mlx-crash-of-allocation", "memory", "smaller"),
    ("0   libmlx.dylib                  \t       0x10a94f0c0 mlx::core::Softmax::eval_gpu(std::vector<mlx::core::array>) + 88", "mlx-crash-frames", "inside MLX", "one thread"),
    ("MLX server exited with error code ExitStatus(unix_wait_status(65280))", "wait-status", "255", "own log"),
    ("RuntimeError: Tensor size for masked_fill exceeds the limit supported by the MPS backend: must be less than 2**32 elements", "mps-size-limit", "count", "pieces"),
    ("Symbol not found: __ZNSt13exception_ptr31__from_native_exception_pointerEPv", "flat-namespace-symbol", "newer C++ library", "Update macOS"),
    ("ImportError: dlopen(/x/site-packages/pytorch3d/_C.cpython-37m-darwin.so, 2): Symbol not found: __Z23RasterizeMeshesFineCudaRKN2at6TensorES2_ifiib", "flat-namespace-symbol", "own code for CUDA", "FORCE_CUDA=0"),
    ("ImportError: dlopen(/x/site-packages/torchvision/_C.so, 6): Library not loaded: @loader_path/../.dylibs/libomp.dylib\n  Reason: no suitable image found", "library-not-loaded", "own wheel", "platform.machine()"),
    # Objective-C, Core ML's converter, ExecuTorch's codes in decimal
    ("*** Terminating app due to uncaught exception 'NSInvalidArgumentException', reason: '+[MLModel compileModelAtURL:completionHandler:]: unrecognized selector sent to class 0x1daa8e928'", "apple-api-of-newer-system", "iOS 16", "deployment target"),
    ("-[__NSCFString objectForKey:]: unrecognized selector sent to instance 0x600", "objc-unrecognized-selector", "fault of the program", "Update"),
    ("reason: '-[MPSGraph foo:]: unrecognized selector sent to instance 0x600'", "framework-selector", "", "macOS"),
    ("('Op \"706\" (op_type: conv_transpose) Input weight must be const at compile time', 'weight', 'wi_center')", "coreml-weight-not-constant", "only constants", "remove_weight_norm"),
    ("ERROR - converting '_internal_op_tensor_inplace_copy_' op", "coreml-in-place", "into a slice", "torch.where"),
    ("ERROR - converting 'full' op (located at: 'heads'):", "coreml-converting-op", "exception below", "float32"),
    ("ModuleNotFoundError: No module named 'executorch.backends.coreml'", "executorch-module-moved", "another release", "backends.apple"),
    ("ValueError: Failed to load image from http://images.cocodataset.org/val2017/000000039769.jpg with error", "mlx-vlm-image", "could not be read", "curl"),
    ('Error Domain=org.pytorch.executorch.error Code=20 "(null)"', "executorch-operator-missing", "kernel is not linked", "kernel library"),
    ("The operation couldn\u2019t be completed. (org.pytorch.executorch.error error 35.)", "executorch-program-invalid", "cannot be loaded", "Export again"),
    ("Error Domain=org.pytorch.executorch.error Code=18", "executorch-arguments", "inputs", "example inputs"),
    # shapes and dtypes of MPSGraph; compilers, signatures and sound
    ("loc(\"total derivative last state\"(\"(mpsFileLoc): /AppleInternal/Library/MPSGraphUtilities.mm\":219:0)): error: input types 'tensor<1x82x64xf32>' and 'tensor<1x32x64xf32>' are not broadcast compatible\nLLVM ERROR: Failed to infer result type(s).", "lstm-backward-shape", "batch_first", "2.0"),
    ("error: input types 'tensor<2x1280xf32>' and 'tensor<*xf16>' are not broadcast compatible", "llvm-broadcast", "two dtypes", "one dtype"),
    ("error: input types 'tensor<1x5x20xf32>' and 'tensor<1x3x20xf32>' are not broadcast compatible", "llvm-broadcast-shapes", "one dtype", "on the CPU"),
    ("2019-09-02 15:20:34 ModelViewer[83574:5317099] MTLCompiler: Compilation failed with XPC_ERROR_CONNECTION_INTERRUPTED on 3 try", "metal-compiler-interrupted", "service", "update macOS"),
    ("Termination Reason:    DYLD, [0x5] Code Signature", "code-signature-invalid", "signature", "codesign"),
    ("(AppleSystemPolicy) ASP: Security policy would not allow process: 123, .openfang/bin/openfang", "code-signature-invalid", "signature", "codesign"),
    ("cli-dev: invalid or unsupported format for signature", "codesign-refuses-file", "no complete program", "again"),
    ("||PaMacCore (AUHAL)|| Error on line 1316: err=''nope'', msg=Audio Hardware: Illegal Operation", "coreaudio-hardware-code", "not allowed now", "one Stream"),
    ("||PaMacCore (AUHAL)|| AUHAL component not found.", "portaudio-too-old", "older than macOS 11", "sounddevice"),
    ("||PaMacCore (AUHAL)|| Error on line 1316: err='-66748', msg=Unknown Error", "portaudio-too-old", "older than macOS 11", "sounddevice"),
    ("The operation couldn\u2019t be completed. (OSStatus error 561145187.)", "coreaudio-permission-code", "recording", "Microphone"),
    ("  libjaccl.dylib    jaccl::SharedBuffer::register_to_protection_domain(ibv_pd*)\n  libjaccl.dylib    jaccl::MeshGroup::allocate_buffers()", "jaccl-crash", "no RDMA device", "ring"),
    ("frame #4: 0x00000001a4b2f8f8 Metal`MTLReportFailure.cold.1 + 48\n    frame #12: 0x0000000232dcb3c4 MetalPerformanceShadersGraph`GPU::MatrixInverseOpHandler::encodeNDArrayOp(GPU::EncodeDescriptor*, NSArray*) + 1680", "mpsgraph-inverse-crash", "inverse of a large matrix", "on the CPU"),
    ("8 MetalPerformanceShadersGraph  \t       0x232dcb3c4 GPU::StridedSliceOpHandler::encodeNDArrayOp(GPU::EncodeDescriptor*, NSArray*) + 1680", "mpsgraph-op-of-frames", "before OpHandler", "failed assertion"),
    # workers, MLX and extensions
    ("UserWarning: semaphore_tracker: There appear to be 1 leaked semaphores to clean up at shutdown", "leaked-semaphore", "trace", "above"),
    ("TypeError: can't pickle _thread.lock objects", "spawn-pickle", "by spawn", "num_workers=0"),
    ("csrc/cpu/utils.h:40:3: error: use of undeclared identifier 'CHECK_LT'\n        CHECK_LT(low, high);", "torch-extension-older-source", "older torch", "newer release"),
    ("reason: '*** -[__NSArray0 objectAtIndex:]: index 0 beyond bounds for empty array'\nlibmlx.dylib ... mlx::core::metal::Device::Device()\nlibmlx.dylib ... mlx::core::metal::device(...)", "mlx-no-metal-device", "no GPU for this process", "logged-in session"),
    ("[metal::Device] Unable to load kernel qmm_t_float16_t_gs_64_b_4_alN_true_batch_0\nCompiler encountered an internal error", "mlx-kernel-not-compiled", "older than MLX", "A14"),
    ("ValueError: [grad] Must specify at least one argument.", "mlx-nothing-to-train", "no parameter to train", "unfreeze"),
    ("KeyError: 'image_token_index'", "mlx-vlm-config-key", "config.json", "mlx-vlm"),
    ("13  libtorch_cpu.dylib            \t       0x12b3c5a40 at::native::structured_softmax_mps_out::impl(at::Tensor const&, long long, bool, at::Tensor const&) + 1200", "torch-op-of-frames", "op on MPS", "on the CPU"),
    ("frame #9: 0x12 libtorch_cpu.dylib`at::native::index_put_mps_(at::Tensor&, c10::List) + 64", "torch-op-of-frames", "op on MPS", "on the CPU"),
    ('{"imageOffset":28780,"symbol":"at::native::structured_cat_out_mps::impl(c10::IListRef<at::Tensor> const&, long long)","symbolLocation":200,"imageIndex":9}', "torch-op-of-frames", "op on MPS", "on the CPU"),
    ("Crashed Thread:        9  Dispatch queue: com.apple.coreml.MLE5ProgramLibrary.lazyInitQueue\n\nException Type:        EXC_CRASH (SIGABRT)", "crash-in-queue", "Core ML", "CPU_AND_GPU"),
    ('"termination" : {"code":4,"flags":518,"namespace":"DYLD","indicator":"Symbol missing"', "crash-report-symbol-missing", "newer", "/usr/lib"),
    ('"exception" : {"codes":"0x0, 0x0","rawCodes":[0,0],"type":"EXC_BAD_ACCESS","signal":"SIGSEGV"}', "crash-report-file", "bad memory access", "triggered"),
    ("Currently, AutocastCPU only support Bfloat16 as the autocast_cpu_dtype", "autocast-on-cpu", "autocast('cpu')", "device_type='mps'"),
    ("    inv_scale = self._scale.double().reciprocal().float()\nTypeError: Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. Please use float32 instead.", "grad-scaler-float64", "GradScaler", "2.13"),
    ("ImportError: cannot import name 'ReduceOp' from 'torch.distributed' (/x/__init__.py)", "torch-without-distributed", "no torch.distributed", "pip install"),
    ("BackendCompilerFailed: debug_wrapper raised AssertionError: Torch not compiled with CUDA enabled", "compile-asks-for-cuda", "torch.compile", "aot_eager"),
    ('error: "You need C++20 to compile PyTorch"', "extension-cxx-standard", "2.14", "-std"),
    ("Iter 1: Val loss nan, Val took 0.001s", "mlx-training-nan", "no tokens", "valid.jsonl"),
    ("KeyError: 'model_type'\n\nAt:\n  /Users/x/lib/python3.11/site-packages/mlx_lm/utils.py(185): _get_classes", "mlx-config-model-type", "config.json", "mlx-audio"),
    ("MPSNDArrayGatherND.mm:234: failed assertion `Rank of updates array (1) must be greater than or equal to inner-most dimension of indices array (20)'", "indices-taken-for-coordinates", "coordinates", "CPU"),
    # public threads, third round; assertions by file
    ("MPSNDArrayMatrixMultiplication.mm:3130: failed assertion `Destination NDArray and Accumulator NDArray cannot have different datatype in MPSNDArrayMatrixMultiplication'", "matmul-datatype-assertion", "mixed", "One dtype"),
    ("MPSNDArrayConvolutionA14.mm:3967: failed assertion `destination datatype must be fp32'", "convolution-datatype-assertion", "dtype", "conv.weight.dtype"),
    ("MPSNDArrayConvolutionA14.mm:4352: failed assertion `destination kernel width and filter kernel width mismatch'", "convolution-width-assertion", "sizes", "newer torch"),
    ("MPSNDArrayMultiaryKernel.mm:1076: failed assertion `Error: Invalid KernelDAG, equalShape for destination failed'", "kernel-dag-assertion", "F.pad", "2.1"),
    ("Python[4210:2560233] failed assertion false at line 567 in _mtlIOGPUCommandBufferStorageRebaseShmemHeader", "command-buffer-storage", "commands", "synchronize"),
    ("MPSNDArrayReduction.mm:98: failed assertion `[MPSNDArrayReduction] axis = 4 too big'", "assertion-of-reduction", "sum, mean", "Flatten"),
    ("MPSMatrixDecomposition.mm:120: failed assertion `Matrix too large'", "assertion-of-linear-algebra", "too large", "CPU"),
    ("Assertion failed: (outputRank == inputRank), function inferType, file GPUConvOps.mm, line 31.", "assertion-in-mpsgraph", "convolution", "faulthandler"),
    ("-[MTLTextureDescriptorInternal validateWithDevice:]:1344: failed assertion `Texture Descriptor Validation MTLTextureDescriptor has width (32768) greater than the maximum allowed size of 16384.'", "assertion-of-texture-or-heap", "16384", "Smaller"),
    ("Assertion failed: (input_size == 3), function _ccv_nnc_swish_mul_back, file ccv_nnc_swish_mul_mps.m, line 130.", "draw-things-assertion", "Draw Things", "Update"),
    ("RuntimeError: [METAL] Command buffer execution failed: Impacting Interactivity (0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)", "mlx-interactivity", "screen", "prefill"),
    ("RuntimeError: [METAL] Command buffer execution failed: Discarded (victim of GPU error/recovery) (00000005:kIOGPUCommandBufferCallbackErrorInnocentVictim)", "mlx-victim", "earlier", "first error"),
    ("ModuleNotFoundError: No module named 'mlx_lm.tokenizers'", "mlx-submodule", "older, or newer", "-U mlx-lm"),
    ("Error in iterating prediction stream: NameError: name 'tree_reduce' is not defined", "lm-studio-engine", "LM Studio", "runtimes"),
    ("  Reason: Incompatible library version: libshm.dylib requires version 1.0.0 or later, but libATen.dylib provides version 0.0.0", "library-version-incompatible", "older build", "clean"),
    ("ld: warning: ignoring file libtorch/lib/libtorch.so, file was built for unsupported file format ( 0x7F 0x45 0x4C 0x46 0x02 )", "library-of-linux", "Linux", "macOS"),
    ("E 00:00:00.101804 executorch:mps_executor_runner.mm:418] LoadBundledInput failed with status 0x12", "executorch-arguments", "InvalidArgument", "example"),
    ("ValueError: Unrecognized tensor name: 'lm_head.scales'", "mlx-to-gguf", "quantised", "--dequantize"),
    ("    data_type = SAFETENSORS_DATA_TYPES[info['dtype']]\nKeyError: 'U32'", "mlx-to-gguf", "U32", "convert_hf_to_gguf"),
    ("ValueError: [save_gguf] can only serialize row-major arrays", "mlx-to-gguf", "float16 only", "convert_hf_to_gguf"),
    ("Error Domain=com.apple.CoreML Code=0 \"MIL program input, 'k_cache', not found in Core ML model inputs\"", "coreml-states", "states", "CPU_AND_GPU"),
    ("TracerWarning: Converting a tensor to a Python boolean might cause the trace to be incorrect.", "tracer-note", "note", "Nothing"),
    ("NotImplementedError: Core ML does not support non-contiguous dim order", "coreml-op-limits", "narrower", "other terms"),
    # public threads, fifth round
    ("Assertion failed: (vals.isSplat()), function getConstantValue, file CommonRuntimeUtils.h, line 58.", "mpsgraph-splat", "several different values", "Update macOS"),
    ("MPSGraphUtilities.mm:39:0: error: 'mps.matmul' op contracting dimensions differ 768 & 2048", "graph-matmul-shapes", "SDXL", "CPU"),
    ("objc[26679]: Class CaptureDelegate is implemented in both /x/cv2/cv2.abi3.so (0x13bc76480) and /opt/homebrew/Cellar/opencv/4.7.0_1/lib/libopencv_videoio.4.7.0.dylib (0x369c78880).", "class-in-two-libraries", "Two copies", ""),
    ("RuntimeError: tensors must be 2-D", "tensors-must-be-2d", "1.12", "newer torch"),
    ('RuntimeError: {\n    NSLocalizedDescription = "Neural Network (<=version 3) inputs can only be of size 1, 3, or 5.";\n}', "coreml-network-rank", "dimensions", "mlprogram"),
    ('RuntimeError: {\n    NSLocalizedDescription = "Something new.";\n}', "coreml-run-failed", "refused", "CPU_ONLY"),
    ('Error compiling model: "Error reading protobuf spec. validator error: The .mlmodel supplied is of version 5, intended for a newer version of Xcode. This version of Xcode supports model version 4 or earlier.".', "coreml-spec-newer", "newer than the Core ML", "minimum_deployment_target"),
    ("ValueError: could not determine the shape of object type 'memoryview'", "mlx-array-foreign", "memoryview", "from_numpy"),
    ("TypeError: memoryview: a bytes-like object is required, not 'mlx.core.array'", "mlx-array-foreign", "buffer protocol", "np.array"),
    ("AttributeError: 'mlx.core.array' object has no attribute '__array__'", "mlx-array-foreign", "does not have", "np.array"),
    ("TypeError: radians(): incompatible function arguments. The following argument types are supported:\n    1. radians(a: array, /, *, stream: Union[None, Stream, Device] = None) -> array\n\nInvoked with types: int", "mlx-call-types", "Python number", "mx.array(x)"),
    ("ValueError: [load] Input must be a file-like object opened in binary mode, or string", "mlx-load-argument", "pathlib", ""),
    ("ValueError: Invalid type torch.Tensor received in array initialization.", "mlx-array-use", "MLX arrays", "cpu().numpy()"),
    ("RuntimeError: std::bad_cast", "mlx-bad-cast", "nanobind 2.15", "int(x)"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message", "means", "fix"), TEXTS, ids=[one[1] for one in TEXTS])
def test_each_text_has_its_cause_and_fix(text: str, message: str, means: str, fix: str) -> None:
    (found,) = explain(text).findings
    assert found.message == message
    assert means in found.means
    assert fix in found.fix


@pytest.mark.parametrize(
    ("library", "message"),
    [
        ("coremltools/converters/mil/frontend/torch/ops.py", "raised-in-coremltools"),
        ("executorch/exir/program/_program.py", "raised-in-executorch"),
        ("mlx_vlm/models/glm4v/language.py", "raised-in-mlx-lm"),
    ],
)
def test_an_unknown_exception_is_placed_by_its_last_frame(library: str, message: str) -> None:
    stack = (
        "Traceback (most recent call last):\n"
        '  File "/Users/x/run.py", line 3, in <module>\n    main()\n'
        f'  File "/Users/x/lib/python3.12/site-packages/{library}", line 40, in visit\n'
        "    return table[node]\n           ~~~~~^^^^^^\nKeyError: 'quux'\n"
    )
    assert [one.message for one in explain(stack).findings] == [message]
    below = stack.replace("KeyError", '  File "/Users/x/own.py", line 1, in f\n    x\nKeyError')
    assert explain(below).findings == ()


@pytest.mark.parametrize(
    "text",
    [
        "ValueError: [config] Missing section 'server'",
        "Error: [sqlite] Database is locked",
        "The operation completed with error code 0x23",
        "RuntimeError: expected a scalar, index out of range",
        "OSError: [Errno 111] Connection refused",
        "KeyError: 'model_type'",
        "validate: 3 failed",
        "Epoch 1: Val loss 0.31",
        "panic: runtime error: index out of range",
        "shader.glsl:12:4: error: syntax error",
        "RuntimeError: [compile] nothing to do",
        "Exception: [convert] Could not find ffmpeg on this path",
        "Buffer Validation passed",
        "ONNX export: Dynamic output size is not supported",
        "Failed to initialize backend error 0x20",
        "Core ML only supports iOS",
        "TypeError: a bytes-like object is required, not 'str'",
        "Assertion failed: (x), function f, file main.c, line 3.",
        "Event: session started",
        "Found 3 image tokens in vocabulary",
    ],
)
def test_lookalikes_of_other_programs_have_no_answer(text: str) -> None:
    assert explain(text).findings == ()
