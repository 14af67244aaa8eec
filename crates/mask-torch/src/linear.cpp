// Linear maps through oneDNN, for linear.rs beside this file.
//
// libtorch gives products of float32 matrices to MKL, which on AMD's processors stays with AVX2. oneDNN, which libtorch
// holds as well, has kernels in AVX-512: on Zen 5 they are twice as fast. libtorch's own way to them for float32 wants
// tensors of another layout, copied both ways; the operation behind torch.compile reads plain ones, but has no
// derivative. That is what is added here.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <optional>

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linear.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/custom_function.h>

// As in shim.cpp: the part of ATen/autocast_mode.h that is needed.
namespace at::autocast {
TORCH_API bool is_autocast_enabled(at::DeviceType device_type);
} // namespace at::autocast

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

const std::optional<c10::OperatorHandle>& operation() {
  static const auto found = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
  return found;
}

bool faster_here() {
#if defined(__x86_64__) && defined(__GNUC__)
  static const bool amd = __builtin_cpu_is("amd") && __builtin_cpu_supports("avx512f");
  return amd;
#else
  return false;
#endif
}

// x [M, K] times the transpose of w [N, K], plus bias [N].
Tensor product(const Tensor& x, const Tensor& w, const std::optional<Tensor>& bias) {
  if (at::GradMode::is_enabled()) {
    return at::linear(x, w, bias); // inside a backward that is itself to be derived
  }
  torch::jit::Stack stack;
  stack.emplace_back(x);
  stack.emplace_back(w);
  stack.emplace_back(bias);
  stack.emplace_back("none"); // no operation behind it
  stack.emplace_back(c10::List<std::optional<at::Scalar>>());
  stack.emplace_back("");
  operation()->callBoxed(stack);
  return stack.back().toTensor();
}

struct Linear : torch::autograd::Function<Linear> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& w, const std::optional<Tensor>& bias) {
    context->save_for_backward({x, w});
    context->saved_data["bias"] = bias.has_value();
    return product(x, w, bias);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const auto saved = context->get_saved_variables();
    const auto &x = saved[0], &w = saved[1];
    const auto& grad = grads[0];
    variable_list out(3);
    if (context->needs_input_grad(0)) {
      out[0] = product(grad, w.t(), std::nullopt);
    }
    if (context->needs_input_grad(1)) {
      out[1] = product(grad.t(), x.t(), std::nullopt);
    }
    if (context->saved_data["bias"].toBool() && context->needs_input_grad(2)) {
      out[2] = grad.sum(0);
    }
    return out;
  }
};

// In two dimensions and back: a view made inside could not be changed in place by its user.
Tensor apply(const Tensor& x, const Tensor& w, const std::optional<Tensor>& bias) {
  auto sizes = x.sizes().vec();
  sizes.back() = w.size(0);
  return Linear::apply(x.reshape({-1, w.size(1)}), w, bias).view(sizes);
}

bool plain(const Tensor& t) {
  return t.defined() && t.device().is_cpu() && t.layout() == at::kStrided && t.scalar_type() == at::kFloat && t.numel() > 0;
}

// Below 2^21 multiplications the longer way to oneDNN costs more than it saves.
bool fits(const Tensor& x, const Tensor& w, const Tensor* bias) {
  return plain(x) && plain(w) && (bias == nullptr || plain(*bias)) && w.dim() == 2 && x.dim() >= 2 &&
      x.size(-1) == w.size(1) && (bias == nullptr || bias->sizes() == w.sizes().slice(0, 1)) &&
      x.numel() * w.size(0) >= (int64_t{1} << 21) && operation().has_value() && at::globalContext().userEnabledMkldnn() &&
      at::hasMKLDNN() && !at::autocast::is_autocast_enabled(at::kCPU);
}

} // namespace

// `engine`: 0 what is faster on this processor, 1 libtorch's own, 2 oneDNN wherever it can. Errors as in shim.cpp.
extern "C" char* mask_torch_linear(const Tensor* x, const Tensor* w, const Tensor* bias, int32_t engine, Tensor** out) {
  const auto text = [](const char* message) {
    char* copy = strdup(message);
    return copy != nullptr ? copy : strdup("out of memory");
  };
  try {
    const std::optional<Tensor> offset = bias != nullptr ? std::optional<Tensor>(*bias) : std::nullopt;
    const bool one = engine != 1 && (engine == 2 || faster_here()) && fits(*x, *w, bias);
    *out = new Tensor(one ? apply(*x, *w, offset) : at::linear(*x, *w, offset));
    return nullptr;
  } catch (const c10::Error& error) {
    return text(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return text(error.what());
  } catch (...) {
    return text("an exception of unknown type");
  }
}
