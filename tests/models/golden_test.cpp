// Logits, losses, gradients and decoding steps equal those of the RAT authors' code (tests/golden/rat/README.md).
// Tolerances: the file's own float64 values were met within 5e-14 by an independent implementation, float32 within
// 1.3e-5 (attention 5.1e-5); gradients are stored in float32, hence 3e-7 relative for them in float64.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <fmt/core.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "rattan/base/config.h"
#include "rattan/io/safetensors_tensors.h"
#include "rattan/models/language_model.h"

namespace rattan::golden_test_file {

using Tensors = std::map<std::string, at::Tensor>;

Tensors read(const std::string& name) {
  return load_tensors(std::string(RATTAN_TEST_DATA) + "/golden/rat/" + name + ".safetensors");
}

struct Case {
  const char* file;
  const char* pattern;
  const char* mixers;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.file; }

const Case cases[] = {
    {"rat_l16", "['rat']", "rat = { type = 'rat', n_heads = 4, n_groups = 2, chunk = 16 }"},
    {"rat_l4", "['rat']", "rat = { type = 'rat', n_heads = 4, n_groups = 2, chunk = 4 }"},
    {"rat_l16_swa", "['rat', 'local']",
     "rat = { type = 'rat', n_heads = 4, n_groups = 2, chunk = 16 }\nlocal = { type = 'swa', n_heads = 4, window = 10 "
     "}"},
    {"attention", "['full']", "full = { type = 'attention', n_heads = 4 }"},
    {"attention_swa", "['full', 'local']",
     "full = { type = 'attention', n_heads = 4 }\nlocal = { type = 'swa', n_heads = 4, window = 20 }"},
    {"rnn", "['rnn']", "rnn = { type = 'rnn' }"},
};

std::unique_ptr<models::LanguageModel> model_of(const Case& c, const Tensors& values, at::ScalarType dtype,
                                                at::Device device) {
  const std::string text = fmt::format(
      "[model]\nvocab_size = 97\nd_model = 64\nn_layers = 4\npattern = {}\nffn = {{ hidden = 72 }}\n[mixers]\n{}\n",
      c.pattern, c.mixers);
  models::LanguageModelConfig config;
  ConfigTree::from_text(text, c.file).read(config);
  auto model = std::make_unique<models::LanguageModel>(config);
  model->compute = dtype;
  model->each_param([&](const std::string& name, nn::Param& p) {
    p.allocate(dtype, device);
    at::NoGradGuard no_grad;
    p.master().copy_(values.at(name));
    p.changed();
  });
  return model;
}

double worst(const at::Tensor& got, const at::Tensor& expected) {
  return (got.cpu().to(at::kDouble) - expected.to(at::kDouble)).abs().max().item<double>();
}

class Golden : public testing::TestWithParam<Case> {
 protected:
  void compare(at::ScalarType dtype, bool checkpoint, double logit_error, double gradient_error,
               at::Device device = at::kCPU) {
    const Tensors values = read(GetParam().file);
    auto model = model_of(GetParam(), values, dtype, device);
    model->stack().checkpoint = checkpoint;
    const at::Tensor ids = values.at("tokens").to(device);
    const nn::Layout layout = nn::Layout::uniform(ids.size(0), ids.size(1), device);
    nn::Call call{layout};
    call.mode = nn::Mode::train;
    const at::Tensor h = model->forward({ids, {}}, call);
    EXPECT_LE(worst(model->head().logits(h, call).detach(), values.at("logits")), logit_error);
    const nn::Loss loss = model->head().nll(h, values.at("targets").to(device), {}, call);
    EXPECT_EQ(loss.count.item<double>(), 2.0 * (static_cast<double>(ids.size(1)) - 1));
    const at::Tensor mean = loss.sum / loss.count;
    EXPECT_NEAR(mean.item<double>(), values.at("loss").item<double>(), logit_error);
    torch::autograd::backward({mean});
    model->each_param([&](const std::string& name, nn::Param& p) {
      const at::Tensor& expected = values.at("grad." + name);
      ASSERT_TRUE(p.master().grad().defined()) << name;
      EXPECT_LE(worst(p.master().grad(), expected), gradient_error * expected.abs().max().item<double>()) << name;
    });
  }

  // A prompt in one piece, then single tokens.
  void decode(at::ScalarType dtype, double error, at::Device device = at::kCPU) {
    at::NoGradGuard no_grad;
    const bool hybrid = std::string(GetParam().file) == "rat_l16_swa";
    const Tensors values = read(hybrid ? "rat_l16_swa" : "rat_l16_decode");
    const std::string prefix = hybrid ? "decode_" : "";
    auto model = model_of(GetParam(), values, dtype, device);
    const at::Tensor ids = values.at(prefix + "tokens").to(device);
    const int64_t prompt = values.at(prefix + "prefill_logits").size(1), total = ids.size(1);
    nn::State state = nn::make_state(model->state_spec(), 2, total, dtype, device);
    for (int64_t from = 0; from < total;) {
      const int64_t to = from == 0 ? prompt : from + 1;
      std::vector<nn::Segment> segments(2);
      for (int32_t row = 0; row < 2; ++row)
        segments[row] = {.row = row,
                         .begin = 0,
                         .end = static_cast<int32_t>(to - from),
                         .pos0 = static_cast<int32_t>(from),
                         .from = from == 0 ? -1 : row,
                         .to = row};
      const nn::Layout layout(2, to - from, segments, device);
      nn::Call call{layout};
      const at::Tensor h = model->extend({ids.slice(1, from, to), {}}, state, call);
      const at::Tensor expected = from == 0 ? values.at(prefix + "prefill_logits")
                                            : values.at(prefix + "step_logits").slice(1, from - prompt, to - prompt);
      EXPECT_LE(worst(model->head().logits(h, call), expected), error) << "tokens " << from << " to " << to;
      if (from == 0 && values.contains("layers.0.cache.running_k")) compare_cache(values, state, error);
      from = to;
    }
    EXPECT_EQ(state.length[0].item<int64_t>(), total);
  }

  void compare_cache(const Tensors& values, const nn::State& state, double error) {
    for (const auto& [slot, block] : state.child) {
      const auto& mixer = block.child.at("mixer").t;
      const std::string cache = "layers." + slot + ".cache.";
      for (const char* which : {"k", "v"}) {
        const at::Tensor whole = values.at(cache + "chunk_" + which).slice(2, 0, 2).transpose(1, 2);
        EXPECT_LE(worst(mixer.at(std::string("ends_") + which).slice(1, 0, 2), whole), error);
        EXPECT_LE(worst(mixer.at(std::string("running_") + which).flatten(1),
                        values.at(cache + "running_" + which).flatten(1)),
                  error);
      }
    }
  }
};

TEST_P(Golden, Float64) { compare(at::kDouble, false, 1e-11, 3e-7); }
TEST_P(Golden, Float64Recomputed) { compare(at::kDouble, true, 1e-11, 3e-7); }
TEST_P(Golden, Float32) { compare(at::kFloat, false, 1e-4, 1e-4); }
TEST_P(Golden, Float32OnCuda) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device";
  compare(at::kFloat, false, 1e-4, 1e-4, at::Device(at::kCUDA, 0));
}

INSTANTIATE_TEST_SUITE_P(Models, Golden, testing::ValuesIn(cases),
                         [](const auto& info) { return std::string(info.param.file); });

// The two files that hold a decode: a file of its own for plain RAT, part of the model file for the hybrid.
class GoldenDecode : public Golden {};
TEST_P(GoldenDecode, Float64) { decode(at::kDouble, 1e-11); }
TEST_P(GoldenDecode, Float32) { decode(at::kFloat, 1e-4); }
TEST_P(GoldenDecode, Float32OnCuda) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device";
  decode(at::kFloat, 1e-4, at::Device(at::kCUDA, 0));
}
INSTANTIATE_TEST_SUITE_P(Models, GoldenDecode, testing::Values(cases[0], cases[2]),
                         [](const auto& info) { return std::string(info.param.file); });

// One layer: norm, mixer, residual.
class GoldenLayer : public testing::TestWithParam<std::tuple<const char*, int, at::ScalarType>> {};

TEST_P(GoldenLayer, OutputAndGradients) {
  auto [file, chunk, dtype] = GetParam();
  const bool exact = dtype == at::kDouble;
  const Tensors values = read(file);
  nn::MixerConfig config;
  const std::string options = fmt::format("type = 'rat'\nn_heads = 4\nn_groups = 2\nchunk = {}", chunk);
  ConfigTree::from_text(options, "layer").read(config);
  auto mixer = config.make({.d_model = 64});
  nn::RmsNorm norm(64, 1e-6);
  auto fill = [&](nn::Module& module, const std::string& prefix) {
    module.each_param(
        [&](const std::string& name, nn::Param& p) {
          p.allocate(dtype, at::kCPU);
          at::NoGradGuard no_grad;
          p.master().copy_(values.at(name));
        },
        prefix);
  };
  fill(*mixer, "layers.0.mixer");
  fill(norm, "layers.0.mixer_norm");
  at::Tensor x = values.at("x").to(dtype).clone().set_requires_grad(true);
  const nn::Layout layout = nn::Layout::uniform(2, 64);
  nn::Call call{layout};
  call.mode = nn::Mode::train;
  nn::Stream stream{x};
  const at::Tensor normed = norm.join(stream, dtype);
  const at::Tensor y = stream.x + mixer->forward(normed, call);
  EXPECT_LE(worst(y.detach(), values.at("y")), exact ? 1e-12 : 2e-5);
  torch::autograd::backward({y}, {values.at("dy").to(dtype)});
  EXPECT_LE(worst(x.grad(), values.at("dx")), exact ? 1e-11 : 2e-4);
  auto gradients = [&](nn::Module& module, const std::string& prefix) {
    module.each_param(
        [&](const std::string& name, nn::Param& p) {
          const at::Tensor& expected = values.at("grad." + name);
          EXPECT_LE(worst(p.master().grad(), expected), (exact ? 1e-11 : 2e-5) * expected.abs().max().item<double>())
              << name;
        },
        prefix);
  };
  gradients(*mixer, "layers.0.mixer");
  gradients(norm, "layers.0.mixer_norm");
}

INSTANTIATE_TEST_SUITE_P(Layers, GoldenLayer,
                         testing::Combine(testing::Values("layer_rat_l16"), testing::Values(16),
                                          testing::Values(at::kDouble, at::kFloat)));
INSTANTIATE_TEST_SUITE_P(LayersOfOne, GoldenLayer,
                         testing::Combine(testing::Values("layer_rat_l1"), testing::Values(1),
                                          testing::Values(at::kDouble, at::kFloat)));

}  // namespace rattan::golden_test_file
