// What tch does not bind, for the Rust files beside this one.
//
// A tensor is passed as tch holds it: a pointer to an at::Tensor. Every function catches every exception and returns
// its text (freed by mask_torch_free), or null when all went well. Headers are narrow on purpose: with ATen/ATen.h the
// file takes three times as long to compile.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include <dlfcn.h>

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/util/Exception.h>
#include <torch/headeronly/version.h>

// ATen/autocast_mode.h includes all operators; these lines are the part of it that is needed.
namespace at::autocast {
TORCH_API bool is_autocast_enabled(at::DeviceType device_type);
TORCH_API void set_autocast_enabled(at::DeviceType device_type, bool enabled);
TORCH_API at::ScalarType get_autocast_dtype(at::DeviceType device_type);
TORCH_API void set_autocast_dtype(at::DeviceType device_type, at::ScalarType dtype);
TORCH_API void clear_cache();
TORCH_API int increment_nesting();
TORCH_API int decrement_nesting();
} // namespace at::autocast

namespace {

char* text(const char* message) {
  char* copy = strdup(message);
  return copy != nullptr ? copy : strdup("out of memory");
}

// Runs `body`; what it throws becomes text.
template <typename Body>
char* guarded(const Body& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const c10::Error& error) {
    return text(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return text(error.what());
  } catch (...) {
    return text("an exception of unknown type");
  }
}

using List = at::Tensor* const*;

std::vector<at::Tensor> collect(List list, size_t count) {
  std::vector<at::Tensor> tensors;
  tensors.reserve(count);
  for (size_t i = 0; i < count; i++) {
    tensors.push_back(*list[i]);
  }
  return tensors;
}

// Those that hold numbers: norms of nothing are zero, and libtorch refuses the largest of none.
std::vector<at::Tensor> collect_filled(List list, size_t count) {
  std::vector<at::Tensor> tensors;
  for (size_t i = 0; i < count; i++) {
    if (list[i]->defined() && list[i]->numel() > 0) {
      tensors.push_back(list[i]->detach());
    }
  }
  return tensors;
}

c10::DeviceType device_type(int32_t cuda) {
  return cuda != 0 ? c10::DeviceType::CUDA : c10::DeviceType::CPU;
}

// The CUDA allocator where it is loaded and in use, else null. c10::getDeviceAllocator would throw.
c10::DeviceAllocator* cuda_allocator() {
  if (!at::globalContext().hasCUDA()) {
    return nullptr;
  }
  auto* allocator = dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(c10::DeviceType::CUDA));
  return allocator != nullptr && allocator->initialized() ? allocator : nullptr;
}

void check_adamw(const at::Tensor& param, const at::Tensor& other, const char* what, size_t i) {
  TORCH_CHECK(other.defined(), what, " ", i, " is undefined");
  TORCH_CHECK(other.sizes() == param.sizes(), what, " ", i, " has shape ", other.sizes(), ", its parameter ", param.sizes());
  TORCH_CHECK(other.scalar_type() == param.scalar_type(), what, " ", i, " is ", other.scalar_type(), ", its parameter ", param.scalar_type());
  TORCH_CHECK(other.device() == param.device(), what, " ", i, " is on ", other.device(), ", its parameter on ", param.device());
}

} // namespace

extern "C" {

void mask_torch_free(char* message) {
  free(message);
}

const char* mask_torch_version() {
  return TORCH_VERSION;
}

// `count` updates in one call. The kernels walk raw memory and check little, so shapes, types and strides are checked
// here. The step tensors advance by what found_inf leaves of 1, which is exact where the update is dropped.
char* mask_torch_adamw(
    List params, List grads, List exp_avgs, List exp_avg_sqs, List steps, size_t count,
    double lr, double beta1, double beta2, double weight_decay, double eps,
    const at::Tensor* grad_scale, const at::Tensor* found_inf) {
  return guarded([&] {
    if (count == 0) {
      return;
    }
    at::NoGradGuard no_grad;
    auto param = collect(params, count), grad = collect(grads, count), step = collect(steps, count);
    auto first = collect(exp_avgs, count), second = collect(exp_avg_sqs, count);
    TORCH_CHECK(param[0].defined(), "parameter 0 is undefined");
    const auto device = param[0].device();
    for (size_t i = 0; i < count; i++) {
      const auto& p = param[i];
      TORCH_CHECK(p.defined(), "parameter ", i, " is undefined");
      TORCH_CHECK(p.device() == device, "parameter ", i, " is on ", p.device(), ", the first on ", device);
      TORCH_CHECK(p.is_non_overlapping_and_dense(), "parameter ", i, " does not fill its memory");
      check_adamw(p, grad[i], "gradient", i);
      check_adamw(p, first[i], "first moment", i);
      check_adamw(p, second[i], "second moment", i);
      TORCH_CHECK(first[i].strides() == p.strides() && second[i].strides() == p.strides(),
          "the moments of parameter ", i, " are laid out unlike it");
      TORCH_CHECK(step[i].defined() && step[i].numel() == 1 && step[i].scalar_type() == at::kFloat && step[i].device() == device,
          "step ", i, " is not one float32 on ", device);
      if (grad[i].strides() != p.strides()) {
        grad[i] = at::empty_like(p).copy_(grad[i]);
      }
    }
    const auto flag = [&](const at::Tensor* value, const char* what) -> std::optional<at::Tensor> {
      if (value == nullptr) {
        return std::nullopt;
      }
      TORCH_CHECK(value->defined() && value->numel() == 1, what, " is not one number");
      return value->detach().to(device, at::kFloat, /*non_blocking=*/true);
    };
    const auto scale = flag(grad_scale, "grad_scale"), dropped = flag(found_inf, "found_inf");
    if (dropped.has_value()) {
      at::_foreach_add_(step, dropped->ne(1).to(at::kFloat).reshape({}));
    } else {
      at::_foreach_add_(step, 1);
    }
    at::_fused_adamw_(param, grad, first, second, {}, step, lr, beta1, beta2, weight_decay, eps,
        /*amsgrad=*/false, /*maximize=*/false, scale, dropped);
  });
}

// The 2-norm over all tensors together, float32, without waiting for the device.
char* mask_torch_grad_norm(List grads, size_t count, at::Tensor** out) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    const auto filled = collect_filled(grads, count);
    if (filled.empty()) {
      *out = new at::Tensor(at::zeros({}, at::kFloat));
      return;
    }
    *out = new at::Tensor(at::linalg_vector_norm(at::stack(at::_foreach_norm(filled, 2, at::kFloat)), 2));
  });
}

// 1 where any number is not finite, else 0. The largest magnitude carries NaN and infinity and, unlike the 2-norm,
// can't overflow.
char* mask_torch_found_inf(List tensors, size_t count, at::Tensor** out) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    const auto filled = collect_filled(tensors, count);
    if (filled.empty()) {
      *out = new at::Tensor(at::zeros({}, at::kFloat));
      return;
    }
    const auto largest = at::stack(at::_foreach_norm(filled, std::numeric_limits<double>::infinity()));
    *out = new at::Tensor(at::isfinite(largest).all().logical_not().to(at::kFloat));
  });
}

// Lets go of the gradients' memory.
char* mask_torch_drop_grads(List params, size_t count) {
  return guarded([&] {
    for (size_t i = 0; i < count; i++) {
      if (params[i]->defined()) {
        params[i]->mutable_grad().reset();
      }
    }
  });
}

// Sets autocast for one kind of device and gives back what was set before. `dtype`: 0 switches it off, 1 bfloat16,
// 2 float16.
char* mask_torch_autocast_enter(int32_t cuda, int32_t dtype, int32_t* was_enabled, int32_t* was_dtype) {
  return guarded([&] {
    const auto type = device_type(cuda);
    *was_enabled = at::autocast::is_autocast_enabled(type) ? 1 : 0;
    *was_dtype = static_cast<int32_t>(at::autocast::get_autocast_dtype(type));
    if (dtype != 0) {
      at::autocast::set_autocast_dtype(type, dtype == 1 ? at::kBFloat16 : at::kHalf);
    }
    at::autocast::set_autocast_enabled(type, dtype != 0);
    at::autocast::increment_nesting();
  });
}

// Puts back what mask_torch_autocast_enter found. Weights that were cast are kept until the outermost leaves.
char* mask_torch_autocast_leave(int32_t cuda, int32_t was_enabled, int32_t was_dtype) {
  return guarded([&] {
    const auto type = device_type(cuda);
    if (at::autocast::decrement_nesting() == 0) {
      at::autocast::clear_cache();
    }
    at::autocast::set_autocast_dtype(type, static_cast<at::ScalarType>(was_dtype));
    at::autocast::set_autocast_enabled(type, was_enabled != 0);
  });
}

// The folder that libtorch_cpu.so was loaded from, to be freed by mask_torch_free; null where it isn't known.
char* mask_torch_folder() {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&at::autocast::clear_cache), &info) == 0 || info.dli_fname == nullptr) {
    return nullptr;
  }
  const std::string file(info.dli_fname);
  const auto slash = file.rfind('/');
  return text(slash == std::string::npos ? "." : file.substr(0, slash).c_str());
}

// Loads a library for good, its symbols open to all.
char* mask_torch_load(const char* path) {
  if (dlopen(path, RTLD_NOW | RTLD_GLOBAL) != nullptr) {
    return nullptr;
  }
  const char* why = dlerror();
  return text(why != nullptr ? why : "the library does not load");
}

// What the CUDA caching allocator handed out at most on one device; -1 where it isn't in use.
char* mask_torch_cuda_peak(int32_t index, int64_t* bytes) {
  return guarded([&] {
    auto* allocator = cuda_allocator();
    constexpr auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    *bytes = allocator != nullptr ? allocator->getDeviceStats(static_cast<c10::DeviceIndex>(index)).allocated_bytes[all].peak : -1;
  });
}

char* mask_torch_cuda_reset_peak(int32_t index) {
  return guarded([&] {
    if (auto* allocator = cuda_allocator()) {
      allocator->resetPeakStats(static_cast<c10::DeviceIndex>(index));
    }
  });
}

char* mask_torch_cuda_empty_cache() {
  return guarded([&] {
    if (auto* allocator = cuda_allocator()) {
      allocator->emptyCache();
    }
  });
}

// With warnings in place of errors where an operation has no repeatable form, and without filling fresh memory, which
// costs a pass over every output.
char* mask_torch_set_deterministic(int32_t on) {
  return guarded([&] {
    auto& context = at::globalContext();
    context.setDeterministicAlgorithms(on != 0, /*warn_only=*/true);
    context.setDeterministicFillUninitializedMemory(false);
    context.setDeterministicCuDNN(on != 0);
    if (on != 0) {
      context.setBenchmarkCuDNN(false);
    }
  });
}

int32_t mask_torch_deterministic() {
  return at::globalContext().deterministicAlgorithms() ? 1 : 0;
}

} // extern "C"
