// Attention cores: one with a state of its own, and the log-sum-exp as a differentiable output.
#include "rattan/nn/core.h"

#include <ATen/ops/full.h>
#include <ATen/ops/logaddexp.h>
#include <ATen/ops/zeros.h>

#include "rattan/base/config.h"
#include "rattan/nn/mixers/registry.h"
#include "tests/probes/probe.h"

namespace rattan::probes {
namespace core_test_file {

constexpr int64_t keys = 12;

// Default attention that also sums, for each key of a sequence, the probabilities that queries gave it.
class ColumnSums : public nn::AttentionCore {
 public:
  nn::AttnOut attend(const nn::AttnIn& in, nn::Call& call) override {
    nn::AttnOut out = nn::default_core().attend(in, call);
    if (!call.core_state) return out;
    at::Tensor scores = at::zeros({in.q.size(0), in.kv.k.size(0)});
    for (int64_t i = 0; i < in.q.size(0); ++i) {
      const int64_t begin = in.mask.begin[i].item<int32_t>(), end = in.mask.end[i].item<int32_t>();
      const at::Tensor s = (in.q[i].unsqueeze(0) * in.kv.k.slice(0, begin, end)).sum(-1) * in.scale;
      scores[i].slice(0, begin, end).copy_((s - out.lse[i].unsqueeze(0)).exp().mean(-1));
    }
    at::Tensor& sums = call.core_state->child.at(std::to_string(call.slot)).t.at("column_sums");
    sums.add_(scores.sum(0).view({-1, keys}));
    return out;
  }
  nn::StateSpec state_spec(int) const override {
    nn::StateSpec spec;
    spec.fields = {{.name = "column_sums", .dtype = at::kFloat, .shape = {}, .every = 1}};
    return spec;
  }
};

TEST(AttentionCore, MayKeepAStateASlot) {
  Blocks blocks;
  for (int i = 0; i < 2; ++i) {
    nn::MixerConfig config;
    ConfigTree::from_text("type = 'attention'\nn_heads = 2", "probe").read(config);
    blocks.add(config.make({.d_model = 8, .init_std = 0.5}));
  }
  blocks.stack.initialize(1);
  ColumnSums core;
  nn::StateSpec spec;
  for (int slot = 0; slot < 2; ++slot) spec.child[std::to_string(slot)] = core.state_spec(slot);
  nn::State core_state = nn::make_state(spec, 1, keys, at::kFloat);
  nn::State state = nn::make_state(blocks.stack.state_spec(), 1, keys, at::kFloat);
  const at::Tensor x = random({1, keys, 8}, 2);
  int64_t done = 0;
  for (int64_t to : {5, 6, 12}) {
    const nn::Layout layout(1, to - done,
                            {{.row = 0,
                              .begin = 0,
                              .end = static_cast<int32_t>(to - done),
                              .pos0 = static_cast<int32_t>(done),
                              .from = 0,
                              .to = 0}});
    nn::Call call{layout};
    call.core = &core;
    call.core_state = &core_state;
    blocks.extend(x.slice(1, done, to).contiguous(), state, call);
    done = to;
    for (const char* slot : {"0", "1"}) {
      const at::Tensor sums = core_state.child.at(slot).t.at("column_sums");
      // Each query hands out probability 1; sums of a dozen fp32 numbers.
      EXPECT_NEAR(sums.sum().item<double>(), static_cast<double>(done), 1e-4);
      EXPECT_EQ(sums.slice(1, done).abs().sum().item<double>(), 0) << "keys to come";
    }
  }
  EXPECT_GT(distance(core_state.child.at("0").t.at("column_sums"), core_state.child.at("1").t.at("column_sums")), 1e-3);
  const nn::Layout whole = nn::Layout::uniform(1, keys);
  nn::Call training{whole};
  training.mode = nn::Mode::train;
  training.core = &core;
  training.core_state = &core_state;
  blocks.stack.checkpoint = true;
  EXPECT_THROW(blocks.forward(x, training), std::exception) << "recomputation would count twice";
}

// Attention over the keys of two halves, merged by their log-sum-exps; the gradient goes through both lse.
at::Tensor merged(nn::AttentionCore& core, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const nn::Layout layout = nn::Layout::uniform(1, q.size(0));
  nn::Call call{layout};
  auto half = [&](int32_t begin, int32_t end) {
    const at::Tensor from = at::full({q.size(0)}, begin, at::kInt), to = at::full({q.size(0)}, end, at::kInt);
    const nn::MaskSpec mask{.visible = nn::Visible::full, .begin = from, .end = to};
    return core.attend({.q = q, .kv = {k, v}, .mask = mask, .scale = 0.5, .bias = {}}, call);
  };
  const nn::AttnOut a = half(0, 7), b = half(7, keys);
  const at::Tensor all = at::logaddexp(a.lse, b.lse);
  return (a.lse - all).exp().unsqueeze(-1) * a.o + (b.lse - all).exp().unsqueeze(-1) * b.o;
}

TEST(AttentionCore, TheGradientOfAMergeIsThatOfTheWhole) {
  using Grads = std::vector<at::Tensor>;
  auto run = [](nn::AttentionCore& core, at::ScalarType dtype, bool merge) {
    Grads in = {random({9, 4, 8}, 1, dtype), random({keys, 2, 8}, 2, dtype), random({keys, 2, 8}, 3, dtype)};
    for (at::Tensor& t : in) t.set_requires_grad(true);
    at::Tensor y;
    if (merge) {
      y = merged(core, in[0], in[1], in[2]);
    } else {
      const nn::Layout layout = nn::Layout::uniform(1, 9);
      nn::Call call{layout};
      const nn::MaskSpec mask{.begin = at::zeros({9}, at::kInt), .end = at::full({9}, keys, at::kInt)};
      y = core.attend({.q = in[0], .kv = {in[1], in[2]}, .mask = mask, .scale = 0.5, .bias = {}}, call).o;
    }
    torch::autograd::backward({y}, {random(y.sizes(), 4, dtype)});
    return Grads{y.detach(), in[0].grad(), in[1].grad(), in[2].grad()};
  };
  const Grads whole = run(nn::reference_core(), at::kDouble, false);
  const Grads exact = run(nn::reference_core(), at::kDouble, true), fused = run(nn::default_core(), at::kFloat, true);
  for (size_t i = 0; i < whole.size(); ++i) {
    EXPECT_LT(distance(exact[i], whole[i]), 1e-12) << i;  // float64, values of size one
    EXPECT_LT(distance(fused[i], whole[i]), 2e-5) << i;   // fp32 sums of some hundred products
  }
}

}  // namespace core_test_file
}  // namespace rattan::probes
