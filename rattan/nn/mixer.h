// The mixer contract: [B, T, D] -> [B, T, D]. One class a mixer, in nn/mixers/, and one line in
// nn/mixers/registry.cpp that puts it in the command line, the tests, the benchmark and the documentation.
#pragma once
#include <memory>
#include <optional>

#include "rattan/base/fields.h"
#include "rattan/nn/call.h"
#include "rattan/nn/module.h"

namespace rattan::nn {

enum class Causal : int8_t {
  strict,     // a later token never changes an earlier output, bit for bit
  prefix,     // strict after the layout's prefix
  selection,  // strict once the call's choices are frozen
  none,
};

enum class StepForm : int8_t {
  exact,  // extend in any split equals forward
  approximate,
  none,  // no extend
};

struct Traits {
  Causal causal = Causal::strict;
  StepForm step = StepForm::exact;
  bool linear = false;         // linear in its input for a fixed gate: linear_system is given
  bool batch_coupled = false;  // rows of a batch influence each other
  bool needs_source = false;
  bool takes_steps = false;       // extend takes layouts without segments (Layout::step)
  bool adds_to_stream = false;    // takes call.stream; one that hands its call on to others must not say so
  bool enters_by_linear = false;  // takes call.norm: extend does nothing with its input but Linear::enter
};

// h_t = exp(log_lambda_t) h_{t-1} + b_t v_t,  y_t = c_t h_t + d_t x_t, with the output map apart.
struct LinearSystem {
  at::Tensor log_lambda, b, c, v, d;  // [B, T, D], or what expands to it
};

class Mixer : public Module {
 public:
  // Whole sequences, for training: from an empty state, or from call.carry, where the final state is then left
  // (differentiably). Any T. Output 0 on padding. Undefined where the output was added to call.stream.
  virtual at::Tensor forward(const at::Tensor& x, Call& call) = 0;
  // One or more further tokens on a state, which is updated in place; segments name the state rows and the
  // positions they continue at. Never differentiable. Prefill, chunked prefill and decoding are this call.
  // Undefined as in forward.
  virtual at::Tensor extend(const at::Tensor& x, State& state, Call& call) = 0;
  virtual StateSpec state_spec() const { return {}; }
  virtual Traits traits() const { return {}; }
  // Multiply-adds count 2. Of the forward pass, per token, averaged over a sequence of `tokens`.
  virtual double flops_per_token(int64_t tokens) const = 0;
  virtual std::optional<LinearSystem> linear_system(const at::Tensor&, Call&) { return std::nullopt; }
};

// What a mixer is built from beside its own options.
struct MixerContext {
  int64_t d_model = 0;
  double init_std = 0.02;
  double norm_eps = 1e-6;
};

// The options of one mixer type: keys of its [mixers.<name>] table.
struct MixerOptions {
  virtual ~MixerOptions() = default;
  virtual void fields(Fields& f) = 0;
  virtual std::unique_ptr<Mixer> make(const MixerContext& context) const = 0;
};

}  // namespace rattan::nn
