#include "rattan/nn/checkpoint.h"

#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "rattan/base/error.h"
#include "rattan/ops/kept.h"

namespace rattan::nn {
namespace checkpoint_file {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// What backward needs to run the block again. Shared, since the graph may outlive the call.
struct Recompute {
  Block* block;
  Layout layout;
  int slot, step;
  AttentionCore* core;
  const Source* source;
  const Knobs* knobs;
  bool enters_added;           // the second tensor of the stream that comes in is `added`, not `pending`
  bool leaves_added = false;   // ... of the one that goes out
  Choices* choices = nullptr;  // the caller's or `recorded`; in backward always the latter
  Choices recorded{};
  ops::Kept kept{};
  std::vector<std::string> loss_names{};
};

struct Outputs {
  variable_list tensors;  // x, pending or added (if any), then sum and count of each loss
  std::vector<std::string> loss_names;
};

Outputs run(Recompute& r, const at::Tensor& x, const at::Tensor& branch, Mode mode, Rng* rng, Sink& sink) {
  Call call{r.layout};
  call.mode = mode;
  call.slot = r.slot;
  call.step = r.step;
  call.core = r.core;
  call.source = r.source;
  call.knobs = r.knobs;
  call.choices = r.choices;
  call.rng = rng;
  call.sink = &sink;
  const ops::Kept::Scope scope(&r.kept);
  Stream stream{x};
  (r.enters_added ? stream.added : stream.pending) = branch;
  r.block->forward(stream, call);
  r.leaves_added = stream.added.defined();
  Outputs out;
  out.tensors = {stream.x};
  for (const at::Tensor& t : {stream.pending, stream.added})
    if (t.defined()) out.tensors.push_back(t);
  for (const auto& [name, loss] : sink.losses) {
    out.loss_names.push_back(name);
    out.tensors.push_back(loss.sum);
    out.tensors.push_back(loss.count);
  }
  return out;
}

// Custom functions take tensors and IValues; the recipe travels as a capsule.
struct Capsule : torch::CustomClassHolder {
  explicit Capsule(std::shared_ptr<Recompute> r) : recipe(std::move(r)) {}
  std::shared_ptr<Recompute> recipe;
};

class Checkpoint : public torch::autograd::Function<Checkpoint> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, const std::optional<at::Tensor>& branch,
                               std::shared_ptr<Recompute> recipe, Rng* rng, Sink* sink) {
    at::NoGradGuard no_grad;
    const at::Tensor second = branch.value_or(at::Tensor());
    Outputs out = run(*recipe, x, second, Mode::train, rng, *sink);
    recipe->recorded = *recipe->choices;
    recipe->choices = &recipe->recorded;
    recipe->recorded.replay(true);
    recipe->kept.replay();
    recipe->loss_names = out.loss_names;
    ctx->save_for_backward({x, second});
    ctx->saved_data["recipe"] = at::IValue::make_capsule(c10::make_intrusive<Capsule>(std::move(recipe)));
    return out.tensors;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    auto capsule = ctx->saved_data["recipe"].toCapsule();
    const std::shared_ptr<Recompute>& recipe = static_cast<Capsule*>(capsule.get())->recipe;
    at::AutoGradMode grad_mode(true);
    variable_list inputs;
    for (at::Tensor& t : saved) inputs.push_back(t.defined() ? t.detach().set_requires_grad(true) : t);
    Sink sink;
    Outputs out = run(*recipe, inputs[0], inputs[1], Mode::replay, nullptr, sink);
    variable_list roots, root_grads;
    for (size_t i = 0; i < out.tensors.size(); ++i)
      if (grads[i].defined() && out.tensors[i].requires_grad()) {
        roots.push_back(out.tensors[i]);
        root_grads.push_back(grads[i]);
      }
    torch::autograd::backward(roots, root_grads);
    return {inputs[0].grad(), inputs[1].defined() ? inputs[1].grad() : at::Tensor(), {}, {}, {}};
  }
};

}  // namespace checkpoint_file

void checkpointed_forward(Block& block, Stream& stream, Call& call) {
  using namespace checkpoint_file;
  if (call.carry || call.core_state) fail("activation checkpointing does not go with a state that forward changes");
  auto recipe = std::make_shared<Recompute>(Recompute{.block = &block,
                                                      .layout = call.layout,
                                                      .slot = call.slot,
                                                      .step = call.step,
                                                      .core = call.core,
                                                      .source = call.source,
                                                      .knobs = call.knobs,
                                                      .enters_added = stream.added.defined()});
  recipe->choices = call.choices ? call.choices : &recipe->recorded;
  Sink sink;
  if (call.sink) sink.wanted = call.sink->wanted;
  // An undefined tensor cannot be an input of a custom function; an empty optional can.
  const at::Tensor& second = recipe->enters_added ? stream.added : stream.pending;
  const auto branch = second.defined() ? std::optional(second) : std::nullopt;
  // Without an input that wants a gradient there would be no backward, and the block's parameters would get none.
  const bool differentiable = stream.x.requires_grad() || (branch && branch->requires_grad());
  if (!differentiable) stream.x = stream.x.detach().set_requires_grad(true);
  const variable_list out = Checkpoint::apply(stream.x, branch, recipe, call.rng, &sink);
  const size_t tensors = out.size() - 2 * recipe->loss_names.size();
  stream = {out[0]};
  if (tensors == 2) (recipe->leaves_added ? stream.added : stream.pending) = out[1];
  if (!call.sink) return;
  for (size_t i = 0; i < recipe->loss_names.size(); ++i)
    call.sink->loss(recipe->loss_names[i], {out[tensors + 2 * i], out[tensors + 2 * i + 1].detach()});
  for (auto& [name, value] : sink.metrics) call.sink->metric(name, value);
  for (auto& [name, value] : sink.taps) call.sink->tap(name, value);
}

}  // namespace rattan::nn
