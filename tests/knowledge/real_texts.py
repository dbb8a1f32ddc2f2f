# ruff: noqa: E501 (quotes stay as they were written)
"""Short quotes of what Macs and users wrote in public threads, with the thread.

Each: (thread, text, id of the message that should explain it, pieces that should be read from it).
"""

MISSING_OLD = (
    "NotImplementedError: The operator 'aten::isin.Tensor_Tensor_out' is not currently implemented for the MPS device. "
    "If you want this op to be added in priority during the prototype phase of this feature, please comment on "
    "https://github.com/pytorch/pytorch/issues/77764. As a temporary fix, you can set the environment variable "
    "`PYTORCH_ENABLE_MPS_FALLBACK=1` to use the CPU as a fallback for this op. WARNING: this will be slower than running "
    "natively on MPS."
)

BROADCAST = (
    'loc("mps_add"("(mpsFileLoc): /AppleInternal/Library/BuildRoots/97f6331a-ba75-11ed-a4bc-863efbbaf80d/Library/Caches/'
    "com.apple.xbs/Sources/MetalPerformanceShadersGraph/mpsgraph/MetalPerformanceShadersGraph/Core/Files/"
    "MPSGraphUtilities.mm\":228:0)): error: input types 'tensor<2x1280xf32>' and 'tensor<1280xf16>' are not broadcast "
    "compatible\nLLVM ERROR: Failed to infer result type(s).\nzsh: abort      /Users/username/automatic/webui.sh"
)

COMMAND_BUFFER = """Error: command buffer exited with error status.
\tThe Metal Performance Shaders operations encoded on it may not have completed.
\tError:
\t(null)
\tInternal Error (0000000e:Internal Error)
\t<AGXG13XFamilyCommandBuffer: 0x3601ec380>
    label = <none>
    device = <AGXG13XDevice: 0x11f3b5400>
        name = Apple M1 Pro
"""

P = "https://github.com/pytorch/pytorch/issues/"
G = "https://github.com/"

REAL: list[tuple[str, str, str, dict[str, str]]] = [
    (
        G + "amazon-science/chronos-forecasting/issues/141",
        MISSING_OLD,
        "missing-op",
        {"op": "aten::isin.Tensor_Tensor_out"},
    ),
    (
        P + "158723",
        "ERROR: The operator 'aten::max_pool3d_with_indices' is not currently implemented for the MPS device.",
        "missing-op",
        {"op": "aten::max_pool3d_with_indices"},
    ),
    (
        P + "84489",  # the spelling of torch 1.12 and 1.13
        "NotImplementedError: The operator 'aten::cumsum.out' is not current implemented for the MPS device.",
        "missing-op",
        {"op": "aten::cumsum.out"},
    ),
    (
        G + "pytorch/vision/issues/9164",
        "'torchvision::deform_conv2d' is not currently implemented for the MPS device",
        "missing-op",
        {"op": "torchvision::deform_conv2d"},
    ),
    (
        P + "86195",
        "NotImplementedError: The operator 'aten::_slow_conv2d_forward' is not currently implemented for the MPS device.",
        "slow-conv2d-forward",
        {"op": "aten::_slow_conv2d_forward"},
    ),
    (
        P + "141320",
        "NotImplementedError: Could not run 'aten::_sparse_coo_tensor_with_dims_and_tensors' with arguments from the "
        "'SparseMPS' backend. This could be because the operator doesn't exist for this backend, or was omitted",
        "missing-for-backend",
        {"op": "aten::_sparse_coo_tensor_with_dims_and_tensors", "backend": "SparseMPS"},
    ),
    (
        G + "open-mmlab/mmdetection/issues/11437",
        "RuntimeError: nms_impl: implementation for device mps:0 not found.",
        "third-party-kernel",
        {"kernel": "nms_impl"},
    ),
    (
        G + "roboflow/rf-detr/issues/29",
        "UserWarning: The operator 'aten::_upsample_bilinear2d_aa.out' is not currently supported on the MPS backend and "
        "will fall back to run on the CPU.",
        "cpu-fallback",
        {"op": "aten::_upsample_bilinear2d_aa.out"},
    ),
    (
        G + "ankane/torch.rb/issues/50",
        "Error inspecting tensor: #<RuntimeError: Cannot convert a MPS Tensor to float64 dtype as the MPS framework "
        "doesn't support float64. Please use float32 instead.>",
        "float64",
        {"dtype": "float64"},
    ),
    (
        P + "77764",  # torch 1.12 wrote "an" and "type"
        "TypeError: Cannot convert an MPS Tensor to float64 type as the MPS framework doesn't support float64.",
        "float64",
        {"dtype": "float64"},
    ),
    (
        G + "Comfy-Org/ComfyUI/issues/6859",
        "Trying to convert Float8_e4m3fn to the MPS backend but it does not have support for that dtype.",
        "dtype-float8-on-mps",
        {"dtype": "Float8_e4m3fn"},
    ),
    (
        G + "QwenLM/Qwen/issues/587",
        "TypeError: BFloat16 is not supported on MPS",
        "bfloat16-none",
        {"dtype": "BFloat16"},
    ),
    (
        P + "96610",
        "RuntimeError: MPS does not support cumsum op with int64 input. Support has been added in macOS 13.3",
        "int-op-input",
        {"kernel": "cumsum", "dtype": "int64", "macos": "13.3"},
    ),
    (
        P + "86319",
        "TypeError: Operation 'neg_out_mps()' does not support input type 'int64' in MPS backend.",
        "operation-input-type",
        {"kernel": "neg", "dtype": "int64"},
    ),
    (
        G + "jianyun8023/soulx-tts-metal/issues/1",
        "isin_Tensor_Tensor_out only works on floating types on MPS for pre MacOS_14_0. Received dtype: Long",
        "isin-macos14",
        {"dtype": "Long"},
    ),
    (
        P + "151443",
        "RuntimeError: Expected elements.dtype() == test_elements.dtype() to be true, but got false.",
        "isin-mixed",
        {},
    ),
    (
        G + "Mikubill/sd-webui-controlnet/issues/1267",
        "RuntimeError: Input type (MPSFloatType) and weight type (MPSHalfType) should be the same",
        "mixed-dtypes",
        {"dtype": "Float", "weight": "Half"},
    ),
    (
        G + "AUTOMATIC1111/stable-diffusion-webui/issues/5262",
        "RuntimeError: Input type (MPSFloatType) and weight type (torch.FloatTensor) should be the same",
        "input-weight-devices",
        {},
    ),
    (
        G + "loscrossos/core_framepackstudio/issues/4",
        "Input type (MPSBFloat16Type) and weight type (CPUBFloat16Type) should be the same",
        "input-weight-devices",
        {},
    ),
    (
        G + "huggingface/transformers/issues/25891",
        "UserWarning: MPS: no support for int64 repeats mask, casting it to int32 (Triggered internally at "
        "aten/src/ATen/native/mps/operations/Repeat.mm:236.)",
        "int64-repeats-cast",
        {},
    ),
    (
        G + "haoheliu/versatile_audio_super_resolution/issues/69",
        "NotImplementedError: Output channels > 65536 not supported at the MPS device.",
        "conv-channels-65536",
        {},
    ),
    (
        P + "143859",
        "MPSNDArray.mm:850: failed assertion `[MPSNDArray initWithDevice:descriptor:isTextureBacked:] Error: total bytes "
        "of NDArray > 2**32'",
        "ndarray-4-gib",
        {},
    ),
    (
        G + "kijai/ComfyUI-SUPIR/issues/151",
        "RuntimeError: Invalid buffer size: 19.38 GiB",
        "invalid-buffer-size",
        {"size": "19.38 GiB"},
    ),
    (P + "154828", "Can't be indexed using 32-bit iterator", "index-32-bit", {}),
    (
        G + "facebookresearch/detectron2/issues/4342",
        "RuntimeError: Currently topk on mps works only for k<=16 ",
        "topk-16",
        {},
    ),
    (
        P + "123364",
        'Assertion failed: (0 <= mpsAxis && mpsAxis < 4 && "Runtime canonicalization must simplify reduction axes to minor '
        '4 dimensions."), function getKernelAxes, file GPUReductionOps.mm, line 31.',
        "reduction-rank",
        {},
    ),
    (
        G + "facebookresearch/sam2/issues/687",
        "RuntimeError: Placeholder storage has not been allocated on MPS device!",
        "placeholder-storage",
        {},
    ),
    (
        G + "facebookresearch/sam2/issues/487",
        'Attempted to set the storage of a tensor on device "cpu" to a storage on different device "mps:0"',
        "storage-device",
        {"device": "cpu", "device2": "mps:0"},
    ),
    (
        G + "Shakker-Labs/ComfyUI-IPAdapter-Flux/issues/13",
        "!!! Exception during processing !!! Tensor for argument input is on cpu but expected on mps",
        "argument-device",
        {"argument": "input", "device": "cpu"},
    ),
    (
        G + "huggingface/transformers/issues/31897",
        "RuntimeError: Expected a 'mps:0' generator device but found 'cpu'",
        "generator-device",
        {"device": "mps:0", "device2": "cpu"},
    ),
    (
        G + "2noise/ChatTTS/issues/772",
        "RuntimeError: indices should be either on cpu or on the same device as the indexed tensor (cpu)",
        "index-device",
        {"device": "cpu"},
    ),
    (
        G + "kohya-ss/sd-scripts/issues/603",
        "RuntimeError: invalid low watermark ratio 1.4",
        "watermark",
        {"which": "low", "ratio": "1.4"},
    ),
    (
        G + "Comfy-Org/ComfyUI/issues/2489",
        "RuntimeError: MPS backend out of memory (MPS allocated: 5.56 GB, other allocations: 1.10 GB, max allowed: "
        "6.80 GB). Tried to allocate 768.00 MB on private pool.",
        "out-of-memory",
        {"allocated": "5.56 GB", "other": "1.10 GB", "allowed": "6.80 GB", "size": "768.00 MB"},
    ),
    (
        G + "actions/runner-images/issues/9918",
        "RuntimeError: MPS backend out of memory (MPS allocated: 0 bytes, other allocations: 0 bytes, max allowed: 7.93 "
        "GB). Tried to allocate 256 bytes on private pool.",
        "runner-out-of-memory",
        {"allowed": "7.93 GB"},
    ),
    (
        G + "vladmandic/sdnext/issues/413",
        BROADCAST,
        "llvm-broadcast",
        {"kernel": "mps_add", "left": "tensor<2x1280xf32>", "right": "tensor<1280xf16>"},
    ),
    (
        G + "Saganaki22/ComfyUI-KugelAudio/issues/2",
        "mps_matmul: error: incompatible dimensions\nLLVM ERROR: Failed to infer result type(s).",
        "matmul-dimensions",
        {"kernel": "mps_matmul"},
    ),
    (
        P + "96153",
        "MPSNDArray.mm:124: failed assertion `[MPSNDArrayDescriptor sliceDimension:withSubrange:] error: subRange.start "
        "(6) is not less than length of dimension[0] (6)'",
        "slice-start-assertion",
        {},
    ),
    (
        G + "datalab-to/surya/issues/216",
        "MPSGraph.mm:678: failed assertion `Placeholder shape mismatches (expected 1 vs got tensorData with 896) at "
        "dimIdx = 0'",
        "placeholder-shape",
        {"expected": "1", "got": "896"},
    ),
    (
        P + "77886",
        "MPSNDArray.mm:782: failed assertion `[MPSNDArray, initWithBuffer:descriptor:] Error: buffer is not large "
        "enough. Must be 25600 bytes",
        "buffer-too-small",
        {"size": "25600"},
    ),
    (
        P + "114942",
        "MPSNDArrayIdentity.mm:795: failed assertion `New volume: 4194304 should match old volume: 8388608 [res",
        "volume-assertion",
        {"new": "4194304", "old": "8388608"},
    ),
    (
        G + "vectorize-io/hindsight/issues/4412",
        "-[AGXG13XFamilyCommandBuffer tryCoalescingPreviousComputeCommandEncoderWithConfig:nextEncoderClass:]:1094: failed "
        "assertion `A command encoder is already encoding to this command buffer`",
        "threads",
        {},
    ),
    (
        P + "154890",
        "MPSNDArraySort.mm:208: failed assertion `(null)\" Axis = 4. This class only supports axis = 0, 1, 2, 3\n'",
        "sort-axis",
        {"axis": "4"},
    ),
    (
        G + "Lightning-AI/pytorch-lightning/issues/14634",
        "MisconfigurationException: MPSAccelerator can not run on your system since the accelerator is not available.",
        "lightning-accelerator",
        {},
    ),
    (P + "125442", COMMAND_BUFFER, "gpu-internal-error", {}),
    (
        G + "huggingface/diffusers/issues/2521",
        "Ignored (for causing prior/excessive GPU errors) (00000004:kIOAccelCommandBufferCallbackErrorSubmissionsIgnored)",
        "gpu-submissions-ignored",
        {},
    ),
    (
        G + "kornia/kornia/issues/4207",
        "Failed to created pipeline state object ... unsupported deferred-static-alloca-size",
        "metal-virtual-gpu",
        {},
    ),
    (
        P + "144634",
        "frame #1: 0x00000001aa78b1b4 Metal`-[_MTLCommandBuffer waitUntilCompleted] + 84",
        "hang-wait",
        {},
    ),
    (
        G + "hiyouga/LlamaFactory/issues/2812",
        "RuntimeError: User specified an unsupported autocast device_type 'mps'",
        "autocast-unsupported",
        {},
    ),
    (
        P + "139190",
        "UserWarning: In MPS autocast, but the target dtype is not supported. Disabling autocast.",
        "autocast-dtype",
        {},
    ),
    (
        G + "huggingface/accelerate/pull/3373",
        "ValueError: fp16 mixed precision requires a GPU (not 'mps').",
        "setup-without-half",
        {"dtype": "fp16", "device": "mps"},
    ),
    (
        P + "164943",
        "RuntimeError: The MPS backend is supported on MacOS 13.0+.Current OS version can be queried using `sw_vers`",
        "macos-too-old",
        {"said": "13.0"},
    ),
    (
        G + "microsoft/OmniParser/pull/195",
        "AttributeError: module 'torch.mps' has no attribute 'is_available'",
        "mps-attribute",
        {"attribute": "is_available"},
    ),
    (
        G + "yizhiwang96/deepvecfont-v2/issues/9",
        "AssertionError: Torch not compiled with CUDA enabled",
        "cuda-not-compiled",
        {},
    ),
    (
        G + "xorbitsai/inference/issues/298",
        "ImportError: [address=127.0.0.1:52814, pid=1630] This modeling file requires the following packages that were "
        "not found in your environment: flash_attn. Run `pip install flash_attn`",
        "flash-attention-refused",
        {},
    ),
    (
        G + "haotian-liu/LLaVA/issues/704",
        "'NoneType' object has no attribute 'cadam32bit_grad_fp32'",
        "bitsandbytes",
        {},
    ),
    (
        G + "transformerlab/transformerlab-app/issues/317",
        "Because torch==2.6.0 has no wheels with a matching platform tag (e.g., `macosx_10_16_x86_64`) and you require "
        "torch==2.6.0, we can conclude that your requirements are unsatisfiable.",
        "no-wheel",
        {"torch": "2.6.0", "tag": "macosx_10_16_x86_64"},
    ),
    (P + "125254", "AssertionError: Device mps not supported", "compile-device", {}),
    (
        P + "158199",
        "torch._inductor.exc.InductorError: SyntaxError: failed to compile \n    #include <c10/metal/random.h>",
        "compile-shader",
        {},
    ),
    (
        P + "104642",
        "MPSGraphUtilities.mm\":294:0)): error: 'anec.gain_offset_control' op result #0 must be 4D/5D memref of 16-bit",
        "neural-engine",
        {"kernel": "anec.gain_offset_control"},
    ),
    (
        P + "142203",
        "test/test_ops.py::TestCommonMPS::test_out_bucketize_mps_float32 Fatal Python error: Segmentation fault",
        "crash",
        {},
    ),
    (
        "https://github.com/rasbt/machine-learning-notes/issues/4",
        "RuntimeError: Expected one of cpu, cuda, xpu, mkldnn, opengl, opencl, ideep, hip, ve, ort, mlc, xla, lazy, vulkan, meta, hpu device type at start of device string: mps",
        "mps-not-a-device",
        {},
    ),
    (
        "https://github.com/rasbt/machine-learning-notes/issues/4",
        "INTEL MKL ERROR: dlopen(/opt/miniconda3/envs/ml/lib/libmkl_intel_thread.1.dylib, 0x0009): Library not loaded: @rpath/libiomp5.dylib",
        "openmp-library",
        {},
    ),
    (
        "https://github.com/sksq96/pytorch-summary/issues/208",
        "AssertionError: Input device is not valid, please specify 'cuda' or 'cpu'",
        "library-refuses-mps",
        {},
    ),
    (
        "https://github.com/pytorch/executorch/issues/6746",
        "stop reason = EXC_BAD_ACCESS (code=1, address=0x580) * frame #0: 0x0000000196dfca3c MPSCore`MPSDevice::GetMPSLibrary_DoNotUse(MPSLibraryInfo const*) + 60",
        "mps-library-crash",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/82702",
        "libc++abi: terminating with uncaught exception of type std::__1::system_error: mutex lock failed: Invalid argument",
        "mutex-at-exit",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/78503",
        "RuntimeError: \"check_uniform_bounds\" not implemented for 'ComplexFloat'",
        "not-implemented-for-complex",
        {"dtype": "ComplexFloat"},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/132110",
        "UserWarning: MPS: nonzero op is supported natively starting from macOS 13.0. Falling back on CPU. This may have performance implications.",
        "fallback-old-macos-op",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/139723",
        "2024-11-05 01:28:04.933 Python[20475:6692381] Error getting visible function: \n (null) Function square_i64 was not found in the library",
        "missing-metal-function",
        {"function": "square_i64"},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/80732",
        "RuntimeError: stride should not be zero",
        "adaptive-pool-smaller",
        {},
    ),
    (
        "https://github.com/kornia/kornia/pull/4663",
        "libc++abi: terminating due to uncaught exception of type c10::AcceleratorError",
        "uncaught-index-error",
        {},
    ),
    (
        "https://github.com/hvoss-tech/AutoForge/issues/35",
        "MPSGraphExecutable.mm:2565: failed assertion `Incompatible element type for parameter at index 1, mlir module expected element type f32 but received bf16'",
        "graph-element-type",
        {"expected": "f32", "got": "bf16"},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/167154",
        "MPSNDArray.mm:891: failed assertion `[MPSNDArray, initWithBufferImpl:offset:descriptor:isForNDArrayAlias:isUserBuffer:] Error: buffer is not large enough. Must be 7664640 bytes",
        "buffer-too-small-alias",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/190050",
        "MPSNDArray.mm:759: failed assertion `[MPSNDArray initWithDevice:descriptor:isTextureBacked:] Error: device may not be nil'",
        "ndarray-without-elements",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/190645",
        "*** Terminating app due to uncaught exception 'NSRangeException', reason: '*** -[__NSArrayM objectAtIndexedSubscript:]: index 4 beyond bounds for empty array'",
        "nsrange-exception",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/154882",
        "MPSNDArrayPooling.mm:1980: failed assertion `Error: destination values and indices length mismatch along axis 0'",
        "pooling-ceil-mode",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/121557",
        "MPSNDArrayScatter.mm:308: failed assertion `Rank of destination array (1) must be greater than or equal to inner-most dimension of indices array (2)'",
        "scatter-rank",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/77818",
        "MetalPerformanceShadersGraph/Core/Files/Operations/MPSGraphConvolutionOps.mm:346: failed assertion `sourceTensor rank must be 4'",
        "conv-rank",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/84511",
        "MPSGraphUtilities.mm:303:0: error: 'mps.reshape' op the result shape is not compatible with the input shape",
        "graph-verification",
        {"kernel": "mps.reshape"},
    ),
    (
        "https://github.com/apple/coreai-torch/issues/58",
        "MPSGraphExecutable.mm:6377: failed assertion `Error: MLIR pass manager failed'",
        "graph-pass-failed",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/148194",
        "MPSRuntime.mm:202: failed assertion `Unsupported MPS operation mps.placeholder'",
        "unsupported-graph-op",
        {"kernel": "mps.placeholder"},
    ),
    (
        "https://github.com/pytorch/pytorch/pull/192458",
        "RuntimeError: Expected out tensor to have dtype float, but got c10::complex<float> instead",
        "norm-complex",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/88415",
        "RuntimeError: Expected scalar_type == ScalarType::Float || inputTensor.scalar_type() == ScalarType::Int || scalar_type == ScalarType::Bool to be true, but got false.  (Could this error message be improved?  If so, please report an enhancement request to PyTorch.)",
        "reduction-dtype",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/pull/145674",
        "RuntimeError: Passed CPU tensor to MPS op",
        "cpu-tensor-in-mps-op",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/186369",
        "error: variable 'tmp_scoped_0' declared with deduced type 'auto' cannot appear in its own initializer",
        "compile-scoped-name",
        {},
    ),
    (
        "https://github.com/ModelCloud/GPTQModel/pull/1684",
        "torch._dynamo.exc.BackendCompilerFailed: backend='inductor' raised:\nLoweringException: TypeError: 'NoneType' object is not callable\n  target: aten.mean.default",
        "inductor-none-lowering",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/77794",
        "NotImplementedError: Could not run 'aten::index.Tensor' with arguments from the 'MPS' backend. This could be because the operator doesn't exist for this backend",
        "missing-for-mps-key",
        {"op": "aten::index.Tensor"},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/78043",
        "RuntimeError: Placeholder buffer size (14336) is not large enough to contain the Tensor storage of size 114688",
        "placeholder-buffer-size",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/92329",
        "RuntimeError: Expected dim to be between 0 and 2 but got -1",
        "negative-dim",
        {},
    ),
    (
        "https://github.com/huggingface/accelerate/pull/3373",
        "ValueError: Attempting to unscale FP16 gradients.",
        "unscale-fp16",
        {},
    ),
    (
        "https://github.com/huggingface/transformers/issues/22529",
        "out of range integral type conversion attempted\nraw output:  tensor([[0, -9223372036854775808]], device='mps:0')",
        "decode-out-of-range",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/163962",
        'RuntimeError: status < 0 INTERNAL ASSERT FAILED at "/pytorch/aten/src/ATen/native/mps/operations/LinearAlgebra.mm":120, please report a bug to PyTorch. Argument 2 has illegal value. Most certainly there is a bug in the implementation calling the backend library.',
        "solver-status",
        {},
    ),
    (
        "https://github.com/huggingface/transformers/issues/40858",
        "RuntimeError: Expected attn_mask dtype to be bool or float or to match query dtype, but got attn_mask.dtype: long int and query.dtype: c10::Half instead.",
        "attention-mask-dtype",
        {},
    ),
    (
        "https://github.com/comfyanonymous/ComfyUI/issues/3521",
        "NotImplementedError: Cannot copy out of meta tensor; no data! Please use torch.nn.Module.to_empty() instead of torch.nn.Module.to() when moving module from meta to a different device.",
        "meta-tensor-copy",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/87688",
        "objc[1234]: +[NSCharacterSet initialize] may have been in progress in another thread when fork() was called. We cannot safely call it or ignore it in the fork() child process. Crashing instead.",
        "fork-in-objective-c",
        {},
    ),
    (
        "https://github.com/pytorch/vision/issues/9164",
        "ImportError: dlopen(/opt/homebrew/lib/python3.11/site-packages/torchaudio/lib/libtorchaudio.so, 0x0006): Symbol not found: _aoti_torch_abi_version",
        "library-of-other-torch",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/191692",
        "RuntimeError: Failed to create function state object for: searchsorted_float2_long",
        "missing-kernel-instance",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/178709",
        "RuntimeError: Failed to create function state object for: add_alpha_dense_cast_half_float",
        "missing-kernel-instance",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/143932",
        "error: 'mps.multiply' op requires the same element type for all operands and results",
        "mpsgraph-element-types",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/176879",
        "NotImplementedError: \"histogram_mps\" not implemented for 'Int'",
        "mps-kernel-dtype",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/141774",
        "RuntimeError: Expected query, key, and value to have the same dtype, but got query.dtype: float key.dtype: float and value.dtype: c10::BFloat16 instead.",
        "attention-dtypes-differ",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/160034",
        "RuntimeError: Expected supportedFloatingType(scalar_type) || scalar_type == kInt || scalar_type == kBool to be true, but got false.  (Could this error message be improved?  If so, please report an enhancement request to PyTorch.)",
        "accumulate-dtype",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/133182",
        'RuntimeError: result.storage().use_count() == 1 INTERNAL ASSERT FAILED at "/torch/csrc/autograd/generated/VariableType_4.cpp":14862, please report a bug to PyTorch. function: relu.',
        "empty-result-storage",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/pull/95091",
        "UserWarning: 1MPS: no support for int64 min/max ops, casting it to int32",
        "int64-cast-warning",
        {},
    ),
    (
        "https://github.com/facebookresearch/detectron2/issues/4686",
        'RuntimeError: input.device().is_cpu() INTERNAL ASSERT FAILED at "detectron2/layers/csrc/ROIAlign/ROIAlign_cpu.cpp":408, please report a bug to PyTorch. input must be a CPU tensor',
        "cpu-only-extension",
        {},
    ),
    (
        "https://github.com/pytorch/vision/pull/8057",
        "RuntimeError: MPS does not support roi_align backward with float16 inputs",
        "torchvision-half-backward",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/123997",
        "RuntimeError: _weight_int4pack_mm_cpu : expect A to be float16 or bfloat16 tensor.",
        "int4-weights-on-cpu",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/196192",
        "RuntimeError: Could not run 'new_compressed_tensor' from the 'mps:0' device",
        "missing-for-device",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/pull/151042",
        "AssertionError: expected size 3==3, stride 1==192 at dim=1; expected size 12==12, stride 48==16 at dim=2; expected size 16==16, stride 3==1 at dim=3",
        "compiled-layout",
        {},
    ),
    (
        "https://github.com/Lightning-AI/pytorch-lightning/issues/14124",
        "MisconfigurationException: Device should be MPS, got cpu instead",
        "lightning-device-cpu",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/116095",
        "Process finished with exit code 138 (interrupted by signal 10:SIGBUS)",
        "killed-by-signal",
        {},
    ),
    (
        "https://github.com/easydiffusion/easydiffusion/issues/1029",
        "Error: Device type MPS is not supported for torch.Generator() api.",
        "generator-mps-unsupported",
        {},
    ),
    (
        "https://github.com/AssemblyAI-Community/MinImagen/issues/16",
        "UserWarning: The dst MTL buffer in copy_to_mps is non-contiguous (Triggered internally at  /Users/runner/work/pytorch/pytorch/pytorch/aten/src/ATen/native/mps/operations/Copy.mm:358.)",
        "copy-to-mps-strided",
        {},
    ),
    (
        "https://github.com/AssemblyAI-Community/MinImagen/issues/16",
        "error: input types 'tensor<64x1xf32>' and 'tensor<64x8xsi64>' are not broadcast compatible",
        "llvm-broadcast",
        {},
    ),
    (
        "https://github.com/ml-explore/mlx-examples/issues/664",
        "libc++abi: terminating due to uncaught exception of type std::runtime_error: [METAL] Command buffer execution failed: Internal Error (0000000e:Internal Error)",
        "mlx-internal-error",
        {},
    ),
    (
        "https://github.com/coqui-ai/TTS/issues/4406",
        "ImportError: cannot import name 'isin_mps_friendly' from 'transformers.pytorch_utils'",
        "isin-mps-friendly-import",
        {},
    ),
    (
        "https://github.com/huggingface/transformers/issues/33786",
        "in isin_mps_friendly\n    if test_elements.shape[0] == 0:\nIndexError: tuple index out of range",
        "isin-mps-friendly-scalar",
        {},
    ),
    (
        "https://github.com/DLR-RM/stable-baselines3/issues/675",
        "RuntimeError: expected scalar type Float but found Double",
        "cpu-dtypes-differ",
        {},
    ),
    (
        "https://github.com/antirez/h3.c/issues/67",
        "MPSNDArrayMultiaryKernel.mm:2644: failed assertion `[MPSNDArrayMatrixMultiplication encodeToCommandBuffer:] destination: [\n<MPSTemporaryNDArray ...> Rank: 4, MPSDataTypeBFloat16, Device: Apple M3 Max\n- dimensionLengths = [ 33654, 33654, 56, 1, ... ]\n] is too large for kernel.  Encode failed.'",
        "matmul-too-large",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/135240",
        "MPSNDArrayGatherND.mm:256: failed assertion `Rank of updates array (1) must be greater than or equal to inner-most dimension of indices array (3)'",
        "scatter-rank",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/114532",
        "(null) Function square_i64 was not found in the library",
        "missing-metal-function",
        {},
    ),
    (
        "https://github.com/coqui-ai/TTS/issues/3758",
        "ValueError: Can't infer missing attention mask on `mps` device. Please provide an `attention_mask` or use a different device.",
        "missing-attention-mask",
        {},
    ),
    (
        "https://github.com/OpenGVLab/InternVL/issues/838",
        "Can't instantiate abstract class MPS_Accelerator with abstract method supported_dtypes",
        "deepspeed-mps-accelerator",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/160738",
        "var test fails for device: mps: var_mps: reduction dim must be in the range of input shape",
        "var-zero-dim",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/82566",
        'src_total_size >= storage_byte_offset INTERNAL ASSERT FAILED at "/Users/runner/work/pytorch/pytorch/pytorch/aten/src/ATen/native/mps/operations/Copy.mm":129, please report a bug to PyTorch.',
        "copy-offset-check",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/83995",
        'RuntimeError: dst.nbytes() >= (dst.storage_offset() * dst.element_size()) INTERNAL ASSERT FAILED at "/Users/davidlaxer/pytorch/aten/src/ATen/native/mps/operations/Copy.mm":130, please report a bug to',
        "copy-offset-check",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/195937",
        'RuntimeError: Failed to created pipeline state object, error: Error Domain=AGXMetal13_3 Code=2 "Compilation failed due to an interrupted connection: XPC_ERROR_CONNECTION_INTERRUPTED. This error occurred after multiple retries."',
        "shader-compiler-interrupted",
        {},
    ),
    (
        "https://github.com/ultralytics/ultralytics/issues/12999",
        "RuntimeError: Trying to create tensor with negative dimension -1: [2, -1, 5]",
        "negative-dimension",
        {},
    ),
    (
        "https://github.com/QwenLM/Qwen3-VL/issues/760",
        "IndexError: Dimension out of range (expected to be in range of [-3, 2], but got 3)",
        "dimension-out-of-range",
        {},
    ),
    (
        "https://github.com/ggml-org/llama.cpp/issues/4440",
        "dyld[6390]: Symbol not found: _cblas_sgemm$NEWLAPACK$ILP64",
        "accelerate-newlapack",
        {},
    ),
    (
        "https://github.com/m-bain/whisperX/issues/878",
        "ValueError: Requested float16 compute type, but the target device or backend do not support efficient float16 computation.",
        "ctranslate2-half",
        {},
    ),
    (
        "https://github.com/alan-turing-institute/deepsensor/issues/42",
        "NotImplementedError: convolution_overrideable not implemented. You are likely triggering this with tensor backend other than CPU/CUDA/MKLDNN",
        "convolution-overrideable",
        {},
    ),
    (
        "https://github.com/SUC-DriverOld/MSST-WebUI/pull/81",
        "RuntimeError: scatter(): Yet not supported for complex",
        "not-yet-for-complex",
        {},
    ),
    (
        "https://github.com/axolotl-ai-cloud/axolotl/issues/1436",
        "ERROR: No matching distribution found for bitsandbytes==0.43.0",
        "bitsandbytes-no-wheel",
        {},
    ),
    (
        "https://github.com/vllm-project/vllm-metal/issues/379",
        "has no wheels with a matching platform tag (e.g., 'macosx_26_0_x86_64')",
        "wheel-tag-of-rosetta",
        {},
    ),
    (
        "https://github.com/YoshitakaMo/localcolabfold/issues/196",
        "-[MPSGraphExecutable initWithMLIRBytecode:executableDescriptor:]: unrecognized selector sent to instance 0x2b5871a90",
        "framework-selector",
        {},
    ),
    (
        "https://github.com/CarlGao4/Demucs-Gui/issues/63",
        "RuntimeError: Error in dlopen: dlopen(libavutil.57.dylib, 0x0006): tried: 'libavutil.57.dylib' (no such file)",
        "ffmpeg-libraries",
        {},
    ),
    (
        "https://github.com/HeliXonProtein/OmegaFold/issues/36",
        "MPSGraphUtilities.mm:343: failed assertion 'unsupported datatype for constant'",
        "constant-datatype",
        {},
    ),
    (
        "https://github.com/jhj0517/Whisper-WebUI/issues/516",
        "gradio.exceptions.Error: \"Value: mps is not in the list of choices: ['cpu', 'cuda', 'xpu']\"",
        "device-not-a-choice",
        {},
    ),
    (
        "https://github.com/Lightricks/ComfyUI-LTXVideo/issues/386",
        "last error log: [aac] Input contains (near) NaN/+-Inf",
        "nan-in-encoder",
        {},
    ),
    (
        "https://github.com/kohya-ss/musubi-tuner/issues/790",
        "ValueError: bf16 mixed precision requires PyTorch >= 1.10 and a supported device.",
        "setup-without-half",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/92206",
        "RuntimeError: derivative for aten::mps_linear_backward is not implemented",
        "linear-double-backward",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/79784",
        "IndexError: Dimension out of range (expected to be in range of [-1, 0], but got 1)",
        "dimension-one-of-vector",
        {"dim": "1"},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/149132",
        'loc("mps_matmul"("(mpsFileLoc): /AppleInternal/Library/BuildRoots/d187755d-b9a3-11ef-83e5-aabfac210453/Library/Caches/com.apple.xbs/Sources/MetalPerformanceShadersGraph/mpsgraph/MetalPerformanceShadersGraph/Core/Files/MPSGraphUtilities.mm":43:0)): error: incompatible dimensions',
        "matmul-dimensions",
        {"kernel": "mps_matmul"},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/113586",
        "failed assertion `[MPSNDArrayDescriptor sliceDimension:withSubrange:] error: subRange.start (8192) is not less than length of dimension[1] (512)'",
        "slice-start-assertion",
        {"start": "8192", "length": "512"},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/91694",
        "error: 'mps.gather' op operand #1 must be tensor of int values, but got 'tensor<64xf32>'",
        "lstm-backward-gather",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/139723",
        "/AppleInternal/Library/BuildRoots/91a344b1-f985-11ee-b563-fe8bc7981bff/Library/Caches/com.apple.xbs/Sources/MetalPerformanceShaders/MPSCore/Utility/MPSKernelDAG.mm:805: failed assertion `Error getting visible function: ",
        "missing-metal-function",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/112998",
        "/AppleInternal/Library/Caches/com.apple.xbs/Sources/MetalPerformanceShaders/MPSNDArray/Kernels/MPSNDArrayConvolutionA14.mm:4352: failed assertion `destination kernel width and filter kernel width mismatch'",
        "convolution-width-assertion",
        {},
    ),
    (
        "https://github.com/datalab-to/marker/issues/301",
        "failed assertion `Placeholder shape mismatches (expected 1 vs got tensorData with 3200) at dimIdx = 0'",
        "placeholder-shape",
        {"expected": "1"},
    ),
    (
        "https://github.com/pytorch/pytorch/issues/146769",
        "MPSNDArray.mm:829: failed assertion `[MPSNDArray initWithDevice:descriptor:isTextureBacked:] Error: NDArray dimension length > INT_MAX'",
        "dimensions-over-2e31",
        {},
    ),
    (
        "https://github.com/ml-explore/mlx/issues/4389",
        "RuntimeError: [metal::Device] Unable to load kernel v_copyint32float32",
        "mlx-kernel-of-copies",
        {"kernel": "v_copyint32float32"},
    ),
    (
        "https://github.com/ml-explore/mlx-lm/issues/697",
        "RuntimeError: [metal::Device] Unable to build metal library from source",
        "mlx-kernel-source",
        {},
    ),
    (
        "https://github.com/mzbac/flux.swift.cli/issues/4",
        "MLX error: Failed to load the default metallib. library not found library not found library not found  at /Users/admin/Code/x/mlx-swift/Source/Cmlx/mlx-c/mlx/c/stream.cpp:115",
        "mlx-swift-metallib",
        {},
    ),
    (
        "https://github.com/jjang-ai/mlxstudio/issues/2",
        "RuntimeError: Failed to load the default metallib. This library is using language version 4.0 which is not supported on this OS",
        "metallib-too-new",
        {"language": "4.0"},
    ),
    (
        "https://github.com/lyogavin/airllm/issues/100",
        "ValueError: [load] Input must be a file-like object, or string",
        "mlx-load-argument",
        {},
    ),
    (
        "https://github.com/ml-explore/mlx-examples/issues/289",
        "TypeError: __array__(): incompatible function arguments. The following argument types are supported:",
        "mlx-array-conversion",
        {},
    ),
    (
        "https://github.com/ml-explore/mlx-examples/issues/1041",
        "ValueError: rope_scaling must contain keys {'factor', 'type'}",
        "mlx-rope-scaling-keys",
        {},
    ),
    (
        "https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/206",
        "Error when loading model: ImportError: dlopen(/Applications/LM Studio.app/Contents/Resources/app/mlx/core.cpython-311-darwin.so, 0x0002): Symbol not found: (_cblas_sgemm$NEWLAPACK)",
        "accelerate-newlapack",
        {"symbol": "_cblas_sgemm$NEWLAPACK"},
    ),
    (
        "https://github.com/ggml-org/llama.cpp/issues/1890",
        "GGML_ASSERT: /private/var/folders/zk/hd0v0z2910x13xv8hq213c600000gn/T/pip-install-pcxrvank/llama-cpp-python_c6c616faeeea45d696c56e85205281f2/vendor/llama.cpp/ggml-metal.m:969: false",
        "ggml-assert",
        {"line": "969"},
    ),
    (
        "https://github.com/Stability-AI/generative-models/issues/402",
        "error: failed to run custom build command for `zstd-sys v2.0.13+zstd.1.5.6`",
        "rust-build-of-old-package",
        {"crate": "zstd-sys"},
    ),
    (
        "https://github.com/ggml-org/whisper.cpp/issues/822",
        "Undefined symbols for architecture arm64:",
        "undefined-symbols",
        {"architecture": "arm64"},
    ),
    (
        "https://github.com/ggml-org/whisper.cpp/issues/898",
        'xcrun: error: unable to find utility "coremlc", not a developer tool or in PATH',
        "xcode-tool-missing",
        {"tool": "coremlc"},
    ),
    (
        "https://github.com/leoheuler/flashtensors/issues/11",
        "CMake Error at CMakeLists.txt:45 (message): Neither CUDA nor HIP found",
        "cmake-without-gpu-toolkit",
        {},
    ),
    (
        "https://github.com/jllllll/llama-cpp-python-cuBLAS-wheels/issues/24",
        "ERROR: llama_cpp_python-0.2.19-cp311-cp311-macosx_12_0_x86_64.whl is not a supported wheel on this platform.",
        "wheel-of-other-platform",
        {},
    ),
    (
        "https://github.com/tensorflow/tensorflow/issues/53309",
        "tensorflow.python.framework.errors_impl.NotFoundError: dlopen(/Users/zhangjing/miniforge3/envs/tf3.7/lib/python3.8/site-packages/tensorflow-plugins/libmetal_plugin.dylib, 6): Symbol not found: _OBJC_CLASS_$_MPSGraphCompilationDescriptor",
        "framework-class-missing",
        {"class": "MPSGraphCompilationDescriptor"},
    ),
    (
        "https://github.com/jax-ml/jax/issues/20338",
        'loc("-":0:0): error: current mps dialect version is 1.0.0, can\'t parse version 1.1.0',
        "jax-metal-dialect",
        {"known": "1.0.0", "wanted": "1.1.0"},
    ),
    (
        "https://github.com/jax-ml/jax/issues/20401",
        "XlaRuntimeError: INTERNAL: Unable to serialize MPS module",
        "jax-metal-dialect",
        {},
    ),
    (
        "https://github.com/pytorch/audio/issues/2357",
        "OSError: dlopen(/venv/lib/python3.8/site-packages/torchaudio/lib/libtorchaudio_ffmpeg.so, 6): Library not loaded: @rpath/libavdevice.58.dylib",
        "ffmpeg-libraries",
        {"library": "avdevice", "release": "58"},
    ),
    (
        "https://github.com/deepmodeling/deepmd-kit/issues/4686",
        "NotImplementedError: ('{} cannot be pickled', '_SingleProcessDataLoaderIter')",
        "spawn-pickle-iterator",
        {},
    ),
    (
        "https://github.com/RVC-Boss/GPT-SoVITS/issues/309",
        "OSError: dlopen(/x/site-packages/torio/lib/libtorio_ffmpeg6.so, 0x0006): Library not loaded: @rpath/libavutil.58.dylib",
        "ffmpeg-libraries",
        {"library": "avutil", "release": "58"},
    ),
    (
        "https://github.com/apple/ml-stable-diffusion/issues/204",
        "ValueError: node hidden_states.7 (scaled_dot_product_attention) got 6 input(s), expected [7]",
        "coreml-inputs-of-node",
        {"layer": "scaled_dot_product_attention"},
    ),
    (
        "https://github.com/apple/coremltools/issues/1947",
        "CoreML/MLShapedArray.swift:557: Fatal error: MLMultiArray of data type Float16 is not supported.",
        "coreml-float16-array",
        {},
    ),
    (
        "https://github.com/apple/ml-stable-diffusion/issues/132",
        "Error parsing MIL model: Could not open /private/var/folders/x/text_encoder.mlmodelc/weights/weight.bin",
        "coreml-weights-missing",
        {},
    ),
    (
        "https://github.com/ml-explore/mlx-examples/issues/1102",
        "error: invalid value 'metal3.1' in '-std=metal3.1'",
        "metal-standard-unknown",
        {"language": "metal3.1"},
    ),
    (
        "https://github.com/ml-explore/mlx-lm/issues/697",
        "error: invalid value 'metal4.0' in '-std=metal4.0'",
        "metal-standard-unknown",
        {"language": "metal4.0"},
    ),
    (
        "https://github.com/ml-explore/mlx/issues/3337",
        "mlx/backend/metal/kernels/utils.h:64:25: error: unknown type name 'bfloat16_t'",
        "metal-bfloat-type",
        {},
    ),
    (
        "https://github.com/EricLBuehler/mistral.rs/issues/1844",
        "error: 'kernel' attribute requires Metal language standard macos-metal2.3 or higher",
        "metal-standard-of-attribute",
        {"attribute": "kernel"},
    ),
    (
        "https://github.com/exo-explore/exo/issues/1390",
        "[jaccl] Changing queue pair to RTR failed with errno 22",
        "mlx-jaccl",
        {},
    ),
    (
        "https://github.com/exo-explore/exo/issues/2309",
        "[ring] Couldn't connect (error: 60)",
        "mlx-ring-connection",
        {"number": "60"},
    ),
    (
        "https://github.com/ml-explore/mlx/issues/3327",
        "ValueError: [gather] Slice sizes must be in [0, a.shape(i)]. Got (1) for array with shape (-2147475456).",
        "mlx-size-overflow",
        {"size": "-2147475456"},
    ),
    (
        "https://github.com/Tencent-Hunyuan/Hunyuan3D-2/issues/320",
        "clang++: error: invalid argument '-bundle' not allowed with '-dynamiclib'",
        "bundle-with-dynamiclib",
        {},
    ),
    (
        "https://github.com/unslothai/unsloth/issues/4",
        "WARNING: unsloth 2026.9.3 does not provide the extra 'mlx'",
        "pip-extra-unknown",
        {"package": "unsloth", "extra": "mlx"},
    ),
    (
        "https://github.com/ggml-org/whisper.cpp/issues/822",
        'Undefined symbols for architecture arm64:\n  "_whisper_coreml_encode", referenced from:\n      whisper_encode_internal(whisper_context&, whisper_state&, int, int) in whisper.o\nld: symbol(s) not found for architecture arm64',
        "whisper-coreml-symbols",
        {},
    ),
    (
        "https://github.com/elixir-nx/emlx/issues/127",
        "libc++abi: terminating due to uncaught exception of type std::__1::system_error: mutex lock failed: Invalid argument",
        "mutex-at-exit",
        {},
    ),
    (
        "https://github.com/pytorch/pytorch/pull/152479",
        "RuntimeError: value cannot be converted to type double without overflow",
        "complex-scalar-as-double",
        {},
    ),
    (
        G + "pytorch/pytorch/blob/v2.13.0/torch/nn/attention/flex_attention.py",
        "NotImplementedError: FlexAttention does not support backward on MPS. Please set the input requires_grad to False "
        "or use another device.",
        "flex-attention-backward",
        {},
    ),
    (
        G + "pytorch/pytorch/blob/v2.13.0/torch/_inductor/kernel/flex/flex_mps.py",
        "flex_attention backward (return_lse=True) is not yet supported on MPS. ",
        "flex-attention-backward",
        {},
    ),
]
