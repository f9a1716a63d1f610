// Exact properties of RAT (arXiv 2507.04416), in float64 and, through the fused kernels, in fp32.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/softmax.h>
#include <fmt/core.h>
#include <gtest/gtest.h>

#include "rattan/nn/core.h"
#include "rattan/nn/rope.h"
#include "tests/nn/mixer_fixture.h"

namespace rattan::mixer_suite {

class RatInvariants : public testing::TestWithParam<at::ScalarType> {
 protected:
  static constexpr int64_t heads = 4, groups = 2, dim = d_model / heads, tokens = 48;
  static constexpr uint64_t seed = 7;
  at::ScalarType dtype = GetParam();
  // fp32: sums of a few hundred terms; float64 the same with 2^-53.
  double error = dtype == at::kDouble ? 1e-13 : 1e-5;
  at::Tensor x = random_input(2, tokens, seed).to(dtype);

  std::unique_ptr<nn::Mixer> rat(int64_t chunk) {
    return make_mixer({"rat", fmt::format("type = 'rat'\nn_heads = 4\nn_groups = 2\nchunk = {}", chunk), dtype}, dtype,
                      seed);
  }
  static at::Tensor weight(nn::Mixer& mixer, const std::string& wanted) {
    at::Tensor found;
    mixer.each_param([&](const std::string& name, nn::Param& p) {
      if (name == wanted) found = p.master().detach();
    });
    return found;
  }
  static void changed(nn::Mixer& mixer) {
    mixer.each_param([](const std::string&, nn::Param& p) { p.changed(); });
  }

  struct Parts {
    at::Tensor z, v, g, q, k, out;  // float64 [N, ...]; q and k tiled to heads, [N, H, p]
  };
  Parts project(nn::Mixer& mixer) {
    at::NoGradGuard no_grad;
    const at::Tensor rows = x.to(at::kDouble).flatten(0, 1);
    const auto p = rows.matmul(weight(mixer, "in_proj.weight").to(at::kDouble).t())
                       .split_with_sizes({d_model, d_model, d_model, groups * dim, groups * dim}, 1);
    auto tiled = [](const at::Tensor& t) { return t.repeat({1, heads / groups}).view({-1, heads, dim}); };
    return {at::sigmoid(p[0]), p[1],        at::sigmoid(p[2] + weight(mixer, "gate_bias").to(at::kDouble)),
            tiled(p[3]),       tiled(p[4]), weight(mixer, "out_proj.weight").to(at::kDouble)};
  }
  // out_proj(z * attention(q, k, v)) with the visible keys of each token given by `mask`.
  at::Tensor attention(const Parts& p, const at::Tensor& k, const at::Tensor& v, const nn::MaskSpec& mask) {
    const nn::Layout layout = nn::Layout::uniform(2, tokens);
    nn::Call call{layout};
    const nn::AttnOut y = nn::reference_core().attend({.q = p.q,
                                                       .kv = {k, v.view({-1, heads, dim})},
                                                       .mask = mask,
                                                       .scale = 1 / std::sqrt(double(dim)),
                                                       .bias = {},
                                                       .extending = false},
                                                      call);
    return (p.z * y.o.flatten(1)).matmul(p.out.t()).view({2, tokens, d_model});
  }
};

TEST_P(RatInvariants, ChunksOfOneAreAttentionOverGatedKeys) {
  auto mixer = rat(1);
  at::NoGradGuard no_grad;
  Parts p = project(*mixer);
  const nn::Layout layout = nn::Layout::uniform(2, tokens);
  auto rotated = [&](const at::Tensor& t) { return nn::rope(t, layout.positions(), tokens, 10000); };
  p.q = rotated(p.q);
  const at::Tensor k = rotated((1 - p.g).view({-1, heads, dim}) * p.k);
  EXPECT_LE(difference(run_forward(*mixer, x), attention(p, k, (1 - p.g) * p.v, layout.mask())), error);
}

TEST_P(RatInvariants, WithoutMemoryItIsDilatedAttention) {
  auto mixer = rat(8);
  at::NoGradGuard no_grad;
  weight(*mixer, "gate_bias").fill_(-1e4);  // g = 0: a chunk end is the chunk's last token
  changed(*mixer);
  const Parts p = project(*mixer);
  const at::Tensor y = run_forward(*mixer, x);
  for (int64_t t : {0, 5, 8, 31, 47}) {
    // Token t of row 0 sees tokens 7, 15, ... of finished chunks and itself.
    const int64_t chunk = t / 8;
    std::vector<at::Tensor> s, v;
    const at::Tensor at_chunk = at::arange(chunk, chunk + 1, at::kInt);
    const at::Tensor q = nn::rope(p.q.slice(0, t, t + 1), at_chunk, 8, 10000);
    for (int64_t c = 0; c <= chunk; ++c) {
      const int64_t source = c == chunk ? t : 8 * c + 7;
      const at::Tensor k = nn::rope(p.k.slice(0, source, source + 1), at::arange(c, c + 1, at::kInt), 8, 10000);
      s.push_back((q * k).sum(-1) / std::sqrt(double(dim)));
      v.push_back(p.v[source].view({1, heads, dim}));
    }
    const at::Tensor weights = at::cat(s).softmax(0).unsqueeze(-1);
    const at::Tensor mixed = (weights * at::cat(v)).sum(0).flatten() * p.z[t];
    EXPECT_LE(difference(y[0][t], p.out.matmul(mixed)), error) << "token " << t;
  }
}

TEST_P(RatInvariants, OneChunkIsTheGatedRnnAndIgnoresQueriesAndKeys) {
  auto mixer = rat(64);
  auto rnn = make_mixer({"rnn", "type = 'rnn'", dtype}, dtype, seed);
  {
    at::NoGradGuard no_grad;
    weight(*rnn, "in_proj.weight").copy_(weight(*mixer, "in_proj.weight").slice(0, 0, 3 * d_model));
    weight(*rnn, "gate_bias").copy_(weight(*mixer, "gate_bias"));
    weight(*rnn, "out_proj.weight").copy_(weight(*mixer, "out_proj.weight"));
    changed(*rnn);
  }
  EXPECT_LE(difference(run_forward(*mixer, x), run_forward(*rnn, x)), dtype == at::kDouble ? 0 : 1e-6);
  const auto g = gradients(*mixer, x, random_input(2, tokens, seed + 1), nn::Layout::uniform(2, tokens));
  EXPECT_EQ(g.at("in_proj.weight").slice(0, 3 * d_model).abs().max().item<double>(), 0);
}

TEST_P(RatInvariants, TheFirstChunkIgnoresQueriesAndKeys) {
  auto mixer = rat(16);
  const at::Tensor before = run_forward(*mixer, x);
  at::NoGradGuard no_grad;
  weight(*mixer, "in_proj.weight").slice(0, 3 * d_model).mul_(-2);
  changed(*mixer);
  const at::Tensor after = run_forward(*mixer, x);
  EXPECT_TRUE(same_bits(after.slice(1, 0, 16), before.slice(1, 0, 16)));
  EXPECT_GT(difference(after.slice(1, 16), before.slice(1, 16)), 1e-3);
}

TEST_P(RatInvariants, AChunkStartsBiasedToZero) {
  // Constant v = 1 and gate g in chunk 0: v~_l = 1 - g^(l+1), read off with z = 1 and out_proj the identity.
  auto mixer = rat(16);
  at::NoGradGuard no_grad;
  at::Tensor w = weight(*mixer, "in_proj.weight"), bias = weight(*mixer, "gate_bias");
  w.zero_();
  w.slice(0, 0, d_model).select(1, 0).fill_(50);           // z = sigmoid(50) = 1
  w.slice(0, d_model, 2 * d_model).select(1, 0).fill_(1);  // v = 1
  bias.fill_(std::log(3.0));                               // g = 3/4
  weight(*mixer, "out_proj.weight")
      .copy_(at::arange(d_model, w.options()).unsqueeze(0) == at::arange(d_model, w.options()).unsqueeze(1));
  changed(*mixer);
  at::Tensor input = x.clone();
  input.select(2, 0).fill_(1);
  const at::Tensor y = run_forward(*mixer, input).slice(1, 0, 16);
  const at::Tensor expected = 1 - at::arange(1, 17, x.options()).mul(std::log(0.75)).exp();
  EXPECT_LE(difference(y, expected.view({1, 16, 1}).expand_as(y)), dtype == at::kDouble ? 1e-15 : 1e-6);
}

TEST_P(RatInvariants, OnlyDistancesBetweenChunksMatter) {
  auto mixer = rat(8);
  auto shifted = [&](int32_t pos0) {
    return nn::Layout(
        2, tokens,
        {{.row = 0, .begin = 0, .end = tokens, .pos0 = pos0}, {.row = 1, .begin = 0, .end = tokens, .pos0 = pos0}});
  };
  EXPECT_LE(difference(run_forward(*mixer, x, shifted(80)), run_forward(*mixer, x)), error);
}

TEST_P(RatInvariants, HeadsTakeTheirGroupByRemainder) {
  auto mixer = rat(8);
  const at::Tensor before = run_forward(*mixer, x);
  at::NoGradGuard no_grad;
  const at::Tensor w = weight(*mixer, "in_proj.weight").clone(), b = weight(*mixer, "gate_bias").clone(),
                   out = weight(*mixer, "out_proj.weight").clone();
  auto rotate = [&](int64_t by) {
    for (int64_t part = 0; part < 3; ++part)
      weight(*mixer, "in_proj.weight")
          .slice(0, part * d_model, (part + 1) * d_model)
          .copy_(w.slice(0, part * d_model, (part + 1) * d_model).roll({by * dim}, {0}));
    weight(*mixer, "gate_bias").copy_(b.roll({by * dim}, {0}));
    weight(*mixer, "out_proj.weight").copy_(out.roll({by * dim}, {1}));
    changed(*mixer);
    return run_forward(*mixer, x);
  };
  EXPECT_LE(difference(rotate(2), before), error) << "head h and h + 2 share a group of two";
  EXPECT_GT(difference(rotate(1), before), 1e-3) << "head h and h + 1 do not";
}

INSTANTIATE_TEST_SUITE_P(Rat, RatInvariants, testing::Values(at::kDouble, at::kFloat),
                         [](const auto& info) { return info.param == at::kDouble ? "fp64" : "fp32"; });

}  // namespace rattan::mixer_suite
