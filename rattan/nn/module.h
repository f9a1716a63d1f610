// Parameters and buffers. No mixer touches a master tensor: it reads a parameter through the accessor, which
// casts to the computing type and applies what has been laid over the weights (a pruning mask).
#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "rattan/base/random.h"
#include "rattan/ops/fp8.h"
#include "rattan/ops/weight.h"

namespace rattan::nn {

// How a fresh parameter is filled; the values depend on the seed and the parameter's full name alone.
struct Init {
  std::function<double(Rng&)> draw;
  static Init normal(double std);
  static Init constant(double value);
  // log u, u ~ U(low, high): the forget gate of a gated recurrence then keeps memory of 1 + u steps
  // (chrono initialization, Tallec & Ollivier, arXiv 1804.11188).
  static Init log_uniform(double low, double high);
};

class Param {
 public:
  Param(std::vector<int64_t> shape, Init init) : shape_(std::move(shape)), init_(std::move(init)) {}

  // The value in `dtype`, differentiable with respect to the master.
  at::Tensor operator()(at::ScalarType dtype) const;
  // The same for a product, which may send the gradient to the master itself (ops/weight.h).
  ops::Weight weight(at::ScalarType dtype) const;
  // A matrix's rows rounded to e4m3, from `value`, what the call above gave; undefined tensors where gradients are
  // recorded, since whoever records them rounds once a use anyway. Kept, like that value, until the master changes.
  ops::Fp8Rows fp8_rows(const at::Tensor& value) const;
  // Keeps the entries where `keep` is true; the others read as 0 and get no gradient. Undefined: no mask.
  void mask(at::Tensor keep);

  const std::vector<int64_t>& shape() const { return shape_; }
  int64_t numel() const;
  // The fp32 (or float64) leaf that the optimizer updates; undefined until allocated.
  at::Tensor& master() { return master_; }
  const at::Tensor& master() const { return master_; }
  void allocate(at::ScalarType dtype, at::Device device);
  void fill(Rng rng);
  void changed();  // to be called after the master was written outside autograd

  bool decay = true, keep_fp32 = false, trainable = true;
  double lr_scale = 1;

 private:
  std::vector<int64_t> shape_;
  Init init_;
  at::Tensor master_, keep_;
  bool differentiable() const;
  mutable std::map<at::ScalarType, at::Tensor> cast_;  // without a gradient; until the master changes
  mutable ops::Fp8Rows fp8_rows_;                      // inference only
};

enum class Reduce : int8_t { none, sum, mean };  // over ranks, once a step

struct Buffer {
  at::Tensor value;
  Reduce reduce = Reduce::none;
  bool persistent = true;
};

// What on_step sees: after reduction and optimizer, once per step.
struct Step {
  int64_t index = 0;
};

class Module {
 public:
  Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;
  virtual ~Module() = default;

  virtual void on_step(Step&) {}

  // Depth-first, full dotted names, in order of registration.
  void each_param(const std::function<void(const std::string& name, Param&)>& visit, const std::string& prefix = "");
  void each_buffer(const std::function<void(const std::string& name, Buffer&)>& visit, const std::string& prefix = "");
  void each_module(const std::function<void(Module&)>& visit);
  int64_t parameters();

  // Allocates every parameter and fills it from `seed`; moves the buffers to the device.
  void initialize(uint64_t seed, at::ScalarType dtype = at::kFloat, at::Device device = at::kCPU);

 protected:
  Param& param(std::string name, std::vector<int64_t> shape, Init init);
  Buffer& buffer(std::string name, at::Tensor value, Reduce reduce, bool persistent);
  void child(std::string name, Module& module);  // not owned

 private:
  std::vector<std::pair<std::string, std::unique_ptr<Param>>> params_;
  std::vector<std::pair<std::string, std::unique_ptr<Buffer>>> buffers_;
  std::vector<std::pair<std::string, Module*>> children_;
};

}  // namespace rattan::nn
