// A Linux PyTorch with the C++ side of a Mac's: a registered device guard, hooks that say yes, an allocator and
// generators of its own, and kernels at the MPS key that compute over plain memory and count their calls.
//
// Nothing here is shipped. Tests load it to see what `mpsprobe predict` does on a build that has MPS, and to run
// `--device mps` where no Mac is. Its texts are PyTorch's (aten/src/ATen/mps, torch 2.13).
//
// Environment, read when the library is loaded:
//   PYTORCH_ENABLE_MPS_FALLBACK, PYTORCH_MPS_HIGH_WATERMARK_RATIO, PYTORCH_MPS_LOG_PROFILE_INFO: as PyTorch reads them.
//   STAND_IN_WORKING_SET: bytes of Metal's recommended working set.
//   STAND_IN_MACOS: "15.5".
//   STAND_IN_ABORT: name of an op ("aten::addmm"); its kernel prints a Metal assertion and aborts.
//   STAND_IN_HANG: name of an op; its kernel never returns.
//   STAND_IN_WRONG: name of an op; its kernel adds 1 to floating-point results.
//   STAND_IN_NOTHING_FREE: the first allocation is refused, as on runners with a virtual GPU.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/MPSHooksInterface.h>
#include <ATen/ops/_scaled_dot_product_attention_math.h>
#include <ATen/ops/_scaled_dot_product_attention_math_for_mps.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/where.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/GradMode.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace {

using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::DispatchKey;
using c10::DispatchKeySet;
using c10::IValue;
using c10::OperatorHandle;
using c10::Stream;
using c10::StreamId;

const Device kMPS0(DeviceType::MPS, 0);

std::string variable(const char* name, const char* otherwise = "") {
  const char* value = std::getenv(name);
  return value ? value : otherwise;
}

// ------------------------------------------------------------------------------------------------------ counting

std::atomic<int64_t> kernels_called{0}, fallbacks_called{0}, allocations{0}, guard_calls{0}, events_made{0};
std::atomic<int64_t> in_use{0}, driver{0}, synchronized{0};
std::mutex mutex;
std::map<std::string, int64_t> calls_of;

struct ProfileLine {
  int64_t id = 0, runs = 0;
  double ms = 0;
  uint64_t bytes = 0;
};
std::map<std::string, ProfileLine> fallbacks_of;

void count(const std::string& name) {
  kernels_called++;
  std::lock_guard<std::mutex> lock(mutex);
  calls_of[name]++;
}

// ------------------------------------------------------------------------------------------------------- memory

int64_t working_set() {
  static const int64_t bytes = std::stoll(variable("STAND_IN_WORKING_SET", "22906503168"));  // 21.33 GiB: 32 GB
  return bytes;
}

double ratio = -1;  // none set by torch.mps.set_per_process_memory_fraction

double high_watermark() {
  if (ratio >= 0) return ratio;
  static const double value = std::stod(variable("PYTORCH_MPS_HIGH_WATERMARK_RATIO", "1.7"));
  TORCH_CHECK(value >= 0 && value <= 2, "invalid high watermark ratio ", value);
  return value;
}

std::string size_text(int64_t bytes) {
  char text[64];
  if (bytes <= 1024) {
    std::snprintf(text, sizeof text, "%lld bytes", (long long)bytes);
  } else if (bytes <= 1 << 20) {
    std::snprintf(text, sizeof text, "%.2f KiB", bytes / 1024.0);
  } else if (bytes <= 1 << 30) {
    std::snprintf(text, sizeof text, "%.2f MiB", bytes / 1048576.0);
  } else {
    std::snprintf(text, sizeof text, "%.2f GiB", bytes / 1073741824.0);
  }
  return text;
}

void take(int64_t bytes) {
  allocations++;
  const double high = high_watermark();
  const int64_t limit = high == 0 ? INT64_MAX : int64_t(high * working_set());
  static const bool nothing_free = !variable("STAND_IN_NOTHING_FREE").empty();
  TORCH_CHECK_WITH(
      OutOfMemoryError,
      !nothing_free && in_use + bytes <= limit,
      "MPS backend out of memory (MPS allocated: ", size_text(in_use), ", other allocations: 0 bytes, max allowed: ",
      size_text(limit), "). Tried to allocate ", size_text(nothing_free ? 256 : bytes),
      " on private pool. Use PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to disable upper limit for memory allocations "
      "(may cause system failure).");
  in_use += bytes;
  if (in_use > driver) driver = int64_t(in_use);
}

struct Block {
  void* data = nullptr;  // what was allocated here, or
  at::Tensor owner;      // the CPU tensor whose memory it is
  int64_t bytes = 0;
};

void give_back(void* context) {
  std::unique_ptr<Block> block(static_cast<Block*>(context));
  in_use -= block->bytes;
  std::free(block->data);
}

struct MpsAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    take(int64_t(bytes));
    auto block = std::make_unique<Block>();
    block->bytes = int64_t(bytes);
    block->data = bytes ? std::aligned_alloc(64, (bytes + 63) / 64 * 64) : nullptr;
    void* data = block->data;
    return {data, block.release(), &give_back, kMPS0};
  }
  c10::DeleterFnPtr raw_deleter() const override {
    return nullptr;
  }
  void copy_data(void* destination, const void* source, size_t bytes) const override {
    default_copy_data(destination, source, bytes);
  }
};

MpsAllocator& allocator() {
  static MpsAllocator one;
  return one;
}

// --------------------------------------------------------------------------------------------------- generators

struct MpsGenerator final : c10::GeneratorImpl {
  at::Generator host;
  explicit MpsGenerator(at::Generator host)
      : c10::GeneratorImpl(kMPS0, DispatchKeySet(DispatchKey::MPS)), host(std::move(host)) {}
  void set_current_seed(uint64_t seed) override {
    host.set_current_seed(seed);
  }
  void set_offset(uint64_t offset) override {
    host.set_offset(offset);
  }
  uint64_t get_offset() const override {
    return host.get_offset();
  }
  uint64_t current_seed() const override {
    return host.current_seed();
  }
  uint64_t seed() override {
    return host.seed();
  }
  void set_state(const c10::TensorImpl& state) override {
    host.unsafeGetGeneratorImpl()->set_state(state);
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return host.unsafeGetGeneratorImpl()->get_state();
  }
  MpsGenerator* clone_impl() const override {
    return new MpsGenerator(host.clone());
  }
};

at::Generator new_generator() {
  return at::make_generator<MpsGenerator>(at::detail::createCPUGenerator());
}

at::Generator& default_generator() {
  static at::Generator one = new_generator();
  return one;
}

// ------------------------------------------------------------------------------------------------ guard and hooks

struct MpsGuard final : c10::impl::DeviceGuardImplInterface {
  MpsGuard() = default;
  explicit MpsGuard(DeviceType) {}
  DeviceType type() const override {
    return DeviceType::MPS;
  }
  Device exchangeDevice(Device) const override {
    return called();
  }
  Device getDevice() const override {
    return called();
  }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  Stream getStream(Device) const override {
    return Stream(Stream::DEFAULT, called());
  }
  Stream getDefaultStream(Device) const override {
    return Stream(Stream::DEFAULT, called());
  }
  Stream exchangeStream(Stream) const override {
    return Stream(Stream::DEFAULT, called());
  }
  DeviceIndex deviceCount() const noexcept override {
    return 1;
  }
  Device called() const {
    guard_calls++;
    return kMPS0;
  }
};

C10_REGISTER_GUARD_IMPL(MPS, MpsGuard)

struct MPSHooks : at::MPSHooksInterface {
  void init() const override {}
  bool isBuilt() const override {
    return true;
  }
  bool isAvailable() const override {
    return true;
  }
  bool hasMPS() const override {
    return true;
  }
  bool isOnMacOSorNewer(unsigned major, unsigned minor) const override {
    unsigned has_major = 0, has_minor = 0;
    std::sscanf(variable("STAND_IN_MACOS", "15.5").c_str(), "%u.%u", &has_major, &has_minor);
    return has_major > major || (has_major == major && has_minor >= minor);
  }
  const at::Generator& getDefaultGenerator(DeviceIndex) const override {
    return default_generator();
  }
  at::Generator getNewGenerator(DeviceIndex) const override {
    return new_generator();
  }
  c10::Allocator* getMPSDeviceAllocator() const override {
    return &allocator();
  }
  void deviceSynchronize() const override {
    synchronized++;
  }
  void commitStream() const override {}
  void emptyCache() const override {
    driver = int64_t(in_use);
  }
  size_t getCurrentAllocatedMemory() const override {
    return size_t(in_use);
  }
  size_t getDriverAllocatedMemory() const override {
    return size_t(driver);
  }
  size_t getRecommendedMaxMemory() const override {
    return size_t(working_set());
  }
  size_t getMaxBufferLength() const override {
    return size_t(working_set() / 2);
  }
  void setMemoryFraction(double value) const override {
    ratio = value;
  }
  void profilerStartTrace(const std::string&, bool) const override {}
  void profilerStopTrace() const override {}
  uint32_t acquireEvent(bool) const override {
    return uint32_t(++events_made);
  }
  void releaseEvent(uint32_t) const override {}
  void recordEvent(uint32_t) const override {}
  void waitForEvent(uint32_t) const override {}
  void synchronizeEvent(uint32_t) const override {}
  bool queryEvent(uint32_t) const override {
    return true;
  }
  double elapsedTimeOfEvents(uint32_t, uint32_t) const override {
    return 1.0;
  }
  bool hasPrimaryContext(DeviceIndex) const override {
    return true;
  }
  DeviceIndex deviceCount() const override {
    return 1;
  }
  void setCurrentDevice(DeviceIndex) const override {}
  DeviceIndex getCurrentDevice() const override {
    return 0;
  }
  DeviceIndex exchangeDevice(DeviceIndex) const override {
    return 0;
  }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override {
    return 0;
  }
  Device getDeviceFromPtr(void*) const override {
    return kMPS0;
  }
  bool isPinnedPtr(const void*) const override {
    return false;
  }
  c10::Allocator* getPinnedMemoryAllocator() const override {
    take(0);  // a Mac's is its device allocator: it counts as one
    return c10::GetCPUAllocator();
  }
};

}  // namespace

namespace at {
C10_REGISTER_CLASS(MPSHooksRegistry, MPSHooks, ::MPSHooks)
}

namespace {

// -------------------------------------------------------------------------------------------- host and device view

at::Tensor over(at::Tensor like, c10::Storage storage, DispatchKey key) {
  auto made = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), DispatchKeySet(key), like.dtype());
  auto* impl = made.unsafeGetTensorImpl();
  impl->set_storage_offset(like.storage_offset());
  impl->set_sizes_and_strides(like.sizes(), like.strides());
  impl->_set_conj(like.is_conj());
  impl->_set_neg(like.is_neg());
  return made;
}

at::Tensor host_view(const at::Tensor& tensor) {
  const auto& storage = tensor.storage();
  auto* owner = new c10::Storage(storage);
  c10::DataPtr data(
      const_cast<void*>(storage.data()), owner, [](void* one) { delete static_cast<c10::Storage*>(one); },
      Device(DeviceType::CPU));
  return over(
      tensor,
      c10::Storage(c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(data), nullptr, false),
      DispatchKey::CPU);
}

at::Tensor device_view(const at::Tensor& tensor) {
  TORCH_CHECK_TYPE(
      tensor.scalar_type() != at::kDouble,
      "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. Please use "
      "float32 instead.");
  TORCH_CHECK(tensor.layout() == at::kStrided, "the stand-in has strided tensors only");
  const auto& storage = tensor.storage();
  const auto bytes = int64_t(storage.nbytes());
  take(bytes);
  auto* block = new Block;
  block->owner = tensor;
  block->bytes = bytes;
  c10::DataPtr data(const_cast<void*>(storage.data()), block, &give_back, kMPS0);
  return over(
      tensor,
      c10::Storage(c10::Storage::use_byte_size_t(), size_t(bytes), std::move(data), &allocator(), true),
      DispatchKey::MPS);
}

void replace(const at::Tensor& tensor, const at::Tensor& by) {
  auto* impl = tensor.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(by.storage());
  impl->set_storage_offset(by.storage_offset());
  impl->set_sizes_and_strides(by.sizes(), by.strides());
}

// --------------------------------------------------------------------------------------------------------- kernels

struct Facts {
  std::string name;
  bool view = false;
  std::vector<size_t> writes;
};

const Facts& facts_of(const OperatorHandle& op) {
  static std::map<std::string, Facts> known;
  static std::mutex lock;
  std::lock_guard<std::mutex> hold(lock);
  std::string name = toString(op.operator_name());
  auto found = known.find(name);
  if (found != known.end()) return found->second;
  Facts facts;
  facts.name = name;
  for (const auto& result : op.schema().returns()) {
    if (result.alias_info() && !result.alias_info()->isWrite()) facts.view = true;
  }
  const auto& arguments = op.schema().arguments();
  for (size_t k = 0; k < arguments.size(); k++) {
    if (arguments[k].alias_info() && arguments[k].alias_info()->isWrite()) facts.writes.push_back(k);
  }
  if (op.schema().name() == "aten::set_") facts.view = true;
  return known.emplace(name, std::move(facts)).first->second;
}

bool moves(const std::string& name) {
  for (const char* one : {"aten::copy_", "aten::index", "aten::_index_put_impl_", "aten::index_put"}) {
    if (name.rfind(one, 0) == 0) return true;
  }
  return false;
}

struct Arguments {
  bool device = false, host = false;

  IValue operator()(const IValue& value) {
    if (value.isTensor()) {
      const auto& tensor = value.toTensor();
      if (!tensor.defined()) return value;
      if (tensor.is_mps()) {
        device = true;
        return host_view(tensor);
      }
      host |= tensor.dim() > 0;
      return value;
    }
    if (value.isTensorList()) {
      c10::List<at::Tensor> made;
      for (const at::Tensor& one : value.toTensorVector()) made.push_back((*this)(one).toTensor());
      return made;
    }
    if (value.isList() && value.toListRef().size()) {
      const auto kind = value.toList().elementType();
      if (!kind->isSubtypeOf(*c10::OptionalType::ofTensor())) return value;
      c10::List<std::optional<at::Tensor>> made;
      for (const IValue& one : value.toListRef()) {
        made.push_back(one.isNone() ? std::nullopt : std::optional<at::Tensor>((*this)(one).toTensor()));
      }
      return made;
    }
    if (value.isDevice() && value.toDevice().is_mps()) return Device(DeviceType::CPU);
    if (value.isGenerator() && value.toGenerator().device().is_mps()) {
      return static_cast<MpsGenerator*>(value.toGenerator().unsafeGetGeneratorImpl())->host;
    }
    return value;
  }
};

IValue to_device(const IValue& value, const std::string& name) {
  if (value.isTensor()) {
    const auto& tensor = value.toTensor();
    if (!tensor.defined() || !tensor.is_cpu()) return value;
    static const std::string wrong = variable("STAND_IN_WRONG");
    if (!wrong.empty() && wrong == name && c10::isFloatingType(tensor.scalar_type()) && tensor.numel()) {
      return device_view(tensor.add(1));
    }
    return device_view(tensor);
  }
  if (value.isTensorList()) {
    c10::List<at::Tensor> made;
    for (const at::Tensor& one : value.toTensorVector()) made.push_back(to_device(one, name).toTensor());
    return made;
  }
  return value;
}

void on_plain_memory(const OperatorHandle& op, torch::jit::Stack* stack) {
  const Facts& facts = facts_of(op);
  const size_t arity = op.schema().arguments().size();
  c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  if (facts.view) {
    op.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), stack);
    return;
  }
  std::vector<IValue> given(stack->end() - long(arity), stack->end());
  Arguments unwrap;
  torch::jit::Stack host;
  for (const IValue& one : given) host.push_back(unwrap(one));
  TORCH_CHECK(
      !(unwrap.device && unwrap.host) || moves(facts.name), "Placeholder storage has not been allocated on MPS device!");
  const bool inplace = facts.writes.size() == 1 && facts.writes[0] == 0;
  std::vector<at::Tensor> fresh(arity);
  if (!inplace) {
    for (size_t k : facts.writes) {
      if (!given[k].isTensor() || !given[k].toTensor().defined()) continue;
      // outputs may change their shape: a new one each, put into the device's tensor afterwards
      fresh[k] = at::detail::empty_cpu({0}, given[k].toTensor().scalar_type());
      host[k] = fresh[k];
    }
  }
  // the one op of these tests that only MPS has: the CPU's of the same signature computes it
  static const auto math = c10::Dispatcher::singleton().findSchemaOrThrow("aten::_scaled_dot_product_attention_math", "");
  const bool fused = facts.name == "aten::_scaled_dot_product_attention_math_for_mps";
  (fused ? math : op).callBoxed(&host);
  torch::jit::drop(*stack, arity);
  if (!inplace) {
    for (size_t k : facts.writes) {
      if (fresh[k].defined()) replace(given[k].toTensor(), device_view(fresh[k]));
    }
  }
  size_t written = 0;
  for (const IValue& result : host) {
    const bool alias = result.isTensor() && written < facts.writes.size() &&
        op.schema().returns()[&result - host.data()].alias_info() != nullptr;
    stack->push_back(alias ? given[facts.writes[written++]] : to_device(result, facts.name));
  }
}

void planted(const std::string& name) {
  static const std::string aborts = variable("STAND_IN_ABORT"), hangs = variable("STAND_IN_HANG");
  if (!aborts.empty() && aborts == name) {
    std::fprintf(
        stderr,
        "/AppleInternal/Library/BuildRoots/1/Library/Caches/com.apple.xbs/Sources/MetalPerformanceShaders/MPSCore/"
        "Types/MPSNDArray.mm:850: failed assertion `[MPSNDArray, initWithBuffer:descriptor:] Error: buffer is not "
        "large enough. Must be 512 bytes\n'\n");
    std::fflush(stderr);
    std::abort();
  }
  if (!hangs.empty() && hangs == name) {
    for (;;) std::this_thread::sleep_for(std::chrono::seconds(1));
  }
}

void kernel(const OperatorHandle& op, torch::jit::Stack* stack) {
  const Facts& facts = facts_of(op);
  count(facts.name);
  planted(facts.name);
  on_plain_memory(op, stack);
}

at::Tensor empty(
    c10::SymIntArrayRef size,
    std::optional<at::ScalarType> dtype,
    std::optional<at::Layout>,
    std::optional<Device>,
    std::optional<bool>,
    std::optional<at::MemoryFormat> format) {
  count("aten::empty.memory_format");
  const auto type = dtype.value_or(c10::typeMetaToScalarType(c10::get_default_dtype()));
  TORCH_CHECK_TYPE(
      type != at::kDouble,
      "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. Please use "
      "float32 instead.");
  return at::detail::empty_generic(
      C10_AS_INTARRAYREF_SLOW(size), &allocator(), DispatchKeySet(DispatchKey::MPS), type, format);
}

at::Tensor empty_strided(
    c10::SymIntArrayRef size,
    c10::SymIntArrayRef stride,
    std::optional<at::ScalarType> dtype,
    std::optional<at::Layout>,
    std::optional<Device>,
    std::optional<bool>) {
  count("aten::empty_strided");
  const auto type = dtype.value_or(c10::typeMetaToScalarType(c10::get_default_dtype()));
  TORCH_CHECK_TYPE(
      type != at::kDouble,
      "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. Please use "
      "float32 instead.");
  return at::detail::empty_strided_generic(
      C10_AS_INTARRAYREF_SLOW(size),
      C10_AS_INTARRAYREF_SLOW(stride),
      &allocator(),
      DispatchKeySet(DispatchKey::MPS),
      type);
}

const at::Tensor& resize_(const at::Tensor& self, c10::SymIntArrayRef size, std::optional<at::MemoryFormat>) {
  count("aten::resize_");
  auto wanted = C10_AS_INTARRAYREF_SLOW(size);
  at::Tensor made = at::detail::empty_generic(
      wanted, &allocator(), DispatchKeySet(DispatchKey::MPS), self.scalar_type(), std::nullopt);
  const auto kept = std::min(self.storage().nbytes(), made.storage().nbytes());
  if (kept) std::memcpy(made.storage().mutable_data(), self.storage().data(), kept);
  replace(self, made);
  return self;
}

bool falls_back() {
  static const bool on = std::atoi(variable("PYTORCH_ENABLE_MPS_FALLBACK", "0").c_str()) != 0;
  return on;
}

// ---- PYTORCH_MPS_LOG_PROFILE_INFO, in the form of MPSProfiler.mm (its format strings are alike in the wheels of 2.1 to 2.15)

int64_t log_options() {
  return std::strtol(variable("PYTORCH_MPS_LOG_PROFILE_INFO", "0").c_str(), nullptr, 0);
}

std::string size_text(uint64_t bytes) {
  char text[64];
  if (bytes <= 1024) {
    std::snprintf(text, sizeof text, "%llu bytes", (unsigned long long)bytes);
  } else if (bytes <= 1048576) {
    std::snprintf(text, sizeof text, "%.2f KB", bytes / 1024.0);
  } else {
    std::snprintf(text, sizeof text, "%.2f MB", bytes / 1048576.0);
  }
  return text;
}

// One run of an op on the CPU: a line when it begins (4), or with its time when it ends (4 with 128 or 256).
class Profiled {
 public:
  Profiled(const OperatorHandle& op, const torch::jit::Stack& stack) : name_(op.schema().name()) {
    std::ostringstream text;
    text << name_;
    // as MPSFallback.mm: the arguments, and as many from the top of the stack as there are results
    for (auto count : {op.schema().arguments().size(), op.schema().returns().size()}) {
      for (size_t at = stack.size() - std::min(count, stack.size()); at < stack.size(); at++) {
        if (!stack[at].isTensor() || !stack[at].toTensor().defined()) continue;
        const auto& tensor = stack[at].toTensor();
        bytes_ += tensor.nbytes();
        text << ":" << c10::DeviceTypeName(tensor.device().type()) << ":" << tensor.scalar_type() << tensor.sizes();
      }
    }
    std::lock_guard<std::mutex> lock(mutex);
    auto& line = fallbacks_of[name_];
    if (!line.id) line.id = fallbacks_of.size();
    line.runs++;
    line.bytes += bytes_;
    text << " (id=" << line.id << ", run=" << line.runs << ", CopyOverhead=" << size_text(bytes_);
    text_ = text.str();
    if ((log_options() & 4) && !(log_options() & 384)) std::fprintf(stderr, "%s)\n", ("CPU Fallback::" + text_).c_str());
  }
  ~Profiled() {
    const double ms =
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begun_).count();
    if ((log_options() & 4) && (log_options() & 384)) {
      std::fprintf(stderr, "%s, cpu=%.3f ms)\n", ("CPU Fallback::" + text_).c_str(), ms);
    }
    std::lock_guard<std::mutex> lock(mutex);
    fallbacks_of[name_].ms += ms;
  }

 private:
  std::string name_, text_;
  uint64_t bytes_ = 0;
  std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
};

void fallback(const OperatorHandle& op, torch::jit::Stack* stack) {
  fallbacks_called++;
  const std::string name = toString(op.operator_name());
  count(name);
  TORCH_CHECK_NOT_IMPLEMENTED(
      falls_back(),
      "The operator '", name,
      "' is not currently implemented for the MPS device. If you want this op to be considered for addition please "
      "comment on https://github.com/pytorch/pytorch/issues/141287 and mention use-case, that resulted in missing op "
      "as well as commit hash 0000000000000000000000000000000000000000. As a temporary fix, you can set the "
      "environment variable `PYTORCH_ENABLE_MPS_FALLBACK=1` to use the CPU as a fallback for this op. WARNING: this "
      "will be slower than running natively on MPS.");
  TORCH_WARN(
      "The operator '", name,
      "' is not currently supported on the MPS backend and will fall back to run on the CPU. This may have "
      "performance implications.");
  Profiled profiled(op, *stack);
  on_plain_memory(op, stack);
}

// native/transformers/attention.cpp of a build with USE_MPS, torch 2.13
at::Tensor attention(
    const at::Tensor& q,
    const at::Tensor& k,
    const at::Tensor& v,
    const std::optional<at::Tensor>& given,
    double dropout,
    bool causal,
    std::optional<double> scale,
    bool grouped) {
  auto mask = given;
  if (mask.has_value() && mask->scalar_type() == at::kBool) {
    const auto like = q.options();
    mask = at::where(
        *mask, at::scalar_tensor(0.0, like), at::scalar_tensor(-std::numeric_limits<double>::infinity(), like));
  }
  const bool training =
      c10::GradMode::is_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad());
  if (training) {
    return std::get<0>(at::_scaled_dot_product_attention_math(
        q, k, v, mask, dropout, causal, std::nullopt, scale, grouped));
  }
  return std::get<0>(at::_scaled_dot_product_attention_math_for_mps(
      q, k, v, mask, dropout, causal, std::nullopt, scale, grouped));
}

TORCH_LIBRARY_IMPL(aten, AutogradMPS, m) {
  m.impl("scaled_dot_product_attention", TORCH_FN(attention));
}

TORCH_LIBRARY_IMPL(_, MPS, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

TORCH_LIBRARY_IMPL(aten, MPS, m) {
  m.impl("empty.memory_format", TORCH_FN(empty));
  m.impl("empty_strided", TORCH_FN(empty_strided));
  m.impl("resize_", TORCH_FN(resize_));
  m.impl("scaled_dot_product_attention", TORCH_FN(attention));
}

// MPSProfiler.mm, logCPUFallbackProfilingStats: 64, or 8 for all statistics
std::string centred(const std::string& text, size_t width, char fill = ' ') {
  if (text.size() >= width) return text;
  const size_t left = (width - text.size()) / 2;
  return std::string(left, fill) + text + std::string(width - text.size() - left, fill);
}

std::string number(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

struct AtEnd {
  ~AtEnd() {
    if (!(log_options() & 72)) return;
    if (fallbacks_of.empty()) {
      std::fprintf(stderr, "There are no CPU Fallbacks logged for profiling\n");
      return;
    }
    int64_t runs = 0;
    double ms = 0;
    uint64_t bytes = 0;
    for (const auto& [name, line] : fallbacks_of) {
      runs += line.runs, ms += line.ms, bytes += line.bytes;
    }
    const std::string title = " CPU Fallback Profiling: Total " + std::to_string(runs) + " Runs, " + number(ms, 2) +
        " ms, " + size_text(bytes) + " Copies ";
    std::string out = "\n" + centred(title, 150, '-') + "\n" + centred("ID", 5) + "|" + centred("#Runs", 7) + "|" +
        centred("Mean CPU(ms)", 14) + "|" + centred("Total CPU(ms)", 15) + "|" + centred("Copy Overhead", 15) +
        "| Operation Name\n" + std::string(150, '-') + "\n";
    for (const auto& [name, line] : fallbacks_of) {
      out += centred(std::to_string(line.id), 6) + centred(std::to_string(line.runs), 8) +
          centred(number(line.ms / line.runs, 3), 15) + centred(number(line.ms, 3), 16) +
          centred(size_text(line.bytes), 16) + " " + name + "\n";
    }
    std::fputs(out.c_str(), stderr);
  }
} at_end;

std::vector<std::unique_ptr<torch::Library>> libraries;

}  // namespace

// --------------------------------------------------------------------------------------------- for tests, over ctypes

extern "C" {

// Give an op ("add.Tensor") a kernel at the MPS key, or at another key.
int stand_in_register(const char* name, const char* key) {
  try {
    auto library = std::make_unique<torch::Library>(
        torch::Library::IMPL, "aten", c10::parseDispatchKey(key), __FILE__, __LINE__);
    library->impl(name, torch::CppFunction::makeFromBoxedFunction<&kernel>());
    libraries.push_back(std::move(library));
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}

int64_t stand_in_kernels() {
  return kernels_called;
}
int64_t stand_in_fallbacks() {
  return fallbacks_called;
}
int64_t stand_in_allocations() {
  return allocations;
}
int64_t stand_in_events() {
  return events_made;
}
int64_t stand_in_synchronized() {
  return synchronized;
}
int64_t stand_in_calls(const char* name) {
  std::lock_guard<std::mutex> lock(mutex);
  auto found = calls_of.find(name);
  return found == calls_of.end() ? 0 : found->second;
}
}
