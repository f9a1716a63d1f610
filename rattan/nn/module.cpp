#include "rattan/nn/module.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <cmath>

#include "rattan/base/error.h"
#include "rattan/base/parallel.h"

namespace rattan::nn {
namespace module_file {

// FNV-1a: gives each parameter a random stream of its own.
uint64_t hash(const std::string& text) {
  uint64_t h = 0xcbf29ce484222325ull;
  for (unsigned char c : text) h = (h ^ c) * 0x100000001b3ull;
  return h;
}

std::string join(const std::string& prefix, const std::string& name) {
  if (prefix.empty() || name.empty()) return prefix + name;
  return prefix + "." + name;
}

constexpr int64_t draws_per_element = 4;  // counters reserved for one element of a parameter
constexpr int64_t fill_block = 1 << 16;

}  // namespace module_file

Init Init::normal(double std) {
  return {[std](Rng& rng) { return std * rng.normal(); }};
}
Init Init::constant(double value) {
  return {[value](Rng&) { return value; }};
}
Init Init::log_uniform(double low, double high) {
  return {[low, high](Rng& rng) { return std::log(low + (high - low) * rng.uniform()); }};
}

int64_t Param::numel() const {
  int64_t n = 1;
  for (int64_t size : shape_) n *= size;
  return n;
}

void Param::allocate(at::ScalarType dtype, at::Device device) {
  master_ = at::empty(shape_, at::TensorOptions().dtype(dtype).device(device)).set_requires_grad(trainable);
  changed();
}

void Param::fill(Rng rng) {
  using namespace module_file;
  at::NoGradGuard no_grad;
  at::Tensor values = at::empty(shape_, at::kDouble);
  double* out = values.data_ptr<double>();
  const int64_t n = numel();
  parallel_for(ceil_div(n, fill_block), [&](int64_t block) {
    Rng local = rng;
    for (int64_t i = block * fill_block; i < std::min(n, (block + 1) * fill_block); ++i) {
      local.set_position(i * draws_per_element);
      out[i] = init_.draw(local);
    }
  });
  master_.copy_(values);
  changed();
}

void Param::changed() {
  cast_.clear();
  fp8_rows_ = {};
}

bool Param::differentiable() const { return at::GradMode::is_enabled() && master_.requires_grad(); }

ops::Fp8Rows Param::fp8_rows(const at::Tensor& value) const {
  if (differentiable()) return {};
  if (!fp8_rows_.values.defined()) fp8_rows_ = ops::quantize_rows(value);
  return fp8_rows_;
}

void Param::mask(at::Tensor keep) {
  require(!keep.defined() || keep.sizes() == at::IntArrayRef(shape_), "a mask must have its parameter's shape");
  keep_ = std::move(keep);
  changed();
}

at::Tensor Param::operator()(at::ScalarType dtype) const {
  if (!master_.defined()) fail("a parameter is read before it was allocated");
  if (keep_fp32 && dtype != at::kDouble) dtype = at::kFloat;
  const bool kept = !differentiable();
  if (kept) {
    auto place = cast_.find(dtype);
    if (place != cast_.end()) return place->second;
  }
  at::Tensor value = keep_.defined() ? master_ * keep_.to(master_.scalar_type()) : master_;
  value = value.to(dtype);
  if (kept) cast_[dtype] = value;
  return value;
}

ops::Weight Param::weight(at::ScalarType dtype) const {
  if (!master_.defined() || keep_.defined() || keep_fp32 || !ops::takes_gradient_directly(master_, dtype))
    return {(*this)(dtype), {}};
  at::NoGradGuard no_grad;
  return {(*this)(dtype), master_};
}

void Module::each_param(const std::function<void(const std::string&, Param&)>& visit, const std::string& prefix) {
  for (auto& [name, param] : params_) visit(module_file::join(prefix, name), *param);
  for (auto& [name, module] : children_) module->each_param(visit, module_file::join(prefix, name));
}

void Module::each_buffer(const std::function<void(const std::string&, Buffer&)>& visit, const std::string& prefix) {
  for (auto& [name, buffer] : buffers_) visit(module_file::join(prefix, name), *buffer);
  for (auto& [name, module] : children_) module->each_buffer(visit, module_file::join(prefix, name));
}

void Module::each_module(const std::function<void(Module&)>& visit) {
  visit(*this);
  for (auto& [name, module] : children_) module->each_module(visit);
}

int64_t Module::parameters() {
  int64_t total = 0;
  each_param([&](const std::string&, Param& p) { total += p.numel(); });
  return total;
}

void Module::initialize(uint64_t seed, at::ScalarType dtype, at::Device device) {
  each_param([&](const std::string& name, Param& p) {
    p.allocate(dtype, device);
    p.fill(Rng(seed, module_file::hash(name)));
  });
  each_buffer([&](const std::string&, Buffer& buffer) { buffer.value = buffer.value.to(device); });
}

Param& Module::param(std::string name, std::vector<int64_t> shape, Init init) {
  return *params_.emplace_back(std::move(name), std::make_unique<Param>(std::move(shape), std::move(init))).second;
}

Buffer& Module::buffer(std::string name, at::Tensor value, Reduce reduce, bool persistent) {
  return *buffers_.emplace_back(std::move(name), std::make_unique<Buffer>(Buffer{std::move(value), reduce, persistent}))
              .second;
}

void Module::child(std::string name, Module& module) { children_.emplace_back(std::move(name), &module); }

}  // namespace rattan::nn
