// A model around one mixer-like module, for probes of modules and tasks: h = x w, and a head that measures the
// distance of h from real-valued targets.
#pragma once
#include <ATen/ops/scalar_tensor.h>

#include "rattan/base/error.h"
#include "rattan/models/model.h"
#include "tests/probes/probe.h"

namespace rattan::probes {

class TinyModel : public models::Model, public models::Head {
 public:
  explicit TinyModel(int64_t dim) : weight(param("weight", {dim}, nn::Init::normal(1))) {}
  at::Tensor forward(const models::Input& input, nn::Call& call) override {
    const at::Tensor x = input.fields.at("x");
    at::Tensor h = x * weight(x.scalar_type());
    if (!call.carry) return h;
    // The carried state: a running sum of the outputs, added to each.
    at::Tensor sum = h.cumsum(1);
    auto place = call.carry->t.find("sum");
    if (place != call.carry->t.end()) sum = sum + place->second.unsqueeze(1);
    call.carry->t["sum"] = sum.select(1, -1);
    return sum;
  }
  at::Tensor extend(const models::Input&, nn::State&, nn::Call&) override { fail("not used"); }
  models::Head& head(const std::string&) override { return *this; }
  nn::StateSpec state_spec() const override { return {}; }
  double flops_per_token(int64_t) const override { return 1; }

  at::Tensor logits(const at::Tensor& h, nn::Call&) override { return h; }
  // Squared distance; weight [B, T] counts a position so often.
  nn::Loss nll(const at::Tensor& h, const at::Tensor& y, const at::Tensor& weights, nn::Call&) override {
    return {((h - y).pow(2).sum(-1) * weights).sum(), weights.sum()};
  }
  at::Tensor score(const at::Tensor&, const at::Tensor&, nn::Call&) override { fail("not used"); }

  nn::Param& weight;
};

}  // namespace rattan::probes
