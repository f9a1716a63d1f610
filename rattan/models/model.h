// What is trained, evaluated and served: a model takes an Input and gives hidden states; heads turn hidden
// states into logits or losses, lazily, so that tokens x vocabulary need never exist.
#pragma once
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "rattan/nn/call.h"
#include "rattan/nn/loss.h"
#include "rattan/nn/module.h"

namespace rattan::models {

struct Input {
  at::Tensor ids;                            // int64 [B, T]
  std::map<std::string, at::Tensor> fields;  // reals, event fields, side streams
};

class Head {
 public:
  virtual ~Head() = default;
  virtual at::Tensor logits(const at::Tensor& h, nn::Call& call) = 0;  // [..., D] -> fp32 [..., V]
  // Sum over positions of weight * negative log-likelihood; targets < 0 are left out and not counted.
  // h [B, T, D], y int64 [B, T], weight fp32 [B, T] or undefined.
  virtual nn::Loss nll(const at::Tensor& h, const at::Tensor& y, const at::Tensor& weight, nn::Call& call) = 0;
  // Log-probability of candidates int64 [..., K] -> fp32 [..., K].
  virtual at::Tensor score(const at::Tensor& h, const at::Tensor& candidates, nn::Call& call) = 0;
};

class Model : public nn::Module {
 public:
  virtual at::Tensor forward(const Input& input, nn::Call& call) = 0;                   // hidden states [B, T, D]
  virtual at::Tensor extend(const Input& input, nn::State& state, nn::Call& call) = 0;  // the same, not differentiable
  virtual Head& head(const std::string& name = "lm") = 0;
  virtual nn::StateSpec state_spec() const = 0;
  // Multiply-adds count 2; forward only, per token, at sequences of `tokens`. Training costs three times that.
  virtual double flops_per_token(int64_t tokens) const = 0;
  // The configuration as text: models that compute differently from equal parameters differ here.
  virtual std::string settings() const { return ""; }

  virtual nn::Source encode(const Input&, nn::Call&);                             // InputError unless it has an encoder
  virtual std::optional<Input> inject(const nn::State&) { return std::nullopt; }  // silent tokens before the next

  // Type of the products: kFloat, kBFloat16 or kDouble (with float64 parameters).
  at::ScalarType compute = at::kFloat;
  // Keys and values of its states in 8 bits (nn::StateSpec::in_8_bits): state_spec() says so.
  bool cache_in_8_bits = false;
};

}  // namespace rattan::models
