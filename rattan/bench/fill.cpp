#include "rattan/bench/fill.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/randint.h>

#include <algorithm>

#include "rattan/models/load.h"
#include "rattan/nn/linear.h"

namespace rattan::bench {
namespace fill_file {

constexpr int64_t tokens_a_call = 8192;
constexpr int64_t drawn_on_the_host = 1 << 20;  // elements of a parameter

void repeat_rows(nn::State& state, int64_t from) {
  for (auto& [name, tensor] : state.t)
    for (int64_t to = from; to < tensor.size(0); to += from) {
      const int64_t n = std::min(from, tensor.size(0) - to);
      tensor.narrow(0, to, n).copy_(tensor.narrow(0, 0, n));
    }
  for (auto& [name, child] : state.child) repeat_rows(child, from);
}

}  // namespace fill_file

void fill_random(nn::State& state) {
  for (auto& [name, tensor] : state.t) {
    if (tensor.scalar_type() == at::kChar) {
      tensor.random_(-127, 128);
    } else if (tensor.scalar_type() == at::kByte) {
      tensor.fill_(121);  // exponents: codes times 2^-6
    } else {
      tensor.normal_();
    }
  }
  for (auto& [name, child] : state.child) fill_random(child);
}

void fill_computed(nn::State& state, models::LanguageModel& model, int64_t tokens, int64_t distinct) {
  at::NoGradGuard no_grad;
  const int64_t rows = std::min(distinct, state.length.size(0));
  at::Device device = at::kCPU;
  model.each_param([&](const std::string&, nn::Param& p) { device = p.master().device(); });
  for (int32_t row = 0; row < rows && tokens > 0; ++row) {
    for (int64_t done = 0; done < tokens; done += fill_file::tokens_a_call) {
      const auto n = static_cast<int32_t>(std::min(fill_file::tokens_a_call, tokens - done));
      const nn::Layout layout(1, n, {{.end = n, .pos0 = static_cast<int32_t>(done), .from = row, .to = row}}, device);
      nn::Call call{layout};
      const at::Tensor ids =
          at::randint(model.config().vocab_size, {1, n}, at::TensorOptions().dtype(at::kLong).device(device));
      model.extend({ids, {}}, state, call);
    }
  }
  if (rows < state.length.size(0)) fill_file::repeat_rows(state, rows);
  state.length.fill_(tokens);
}

std::unique_ptr<models::LanguageModel> random_model(const models::LanguageModelConfig& config, at::ScalarType dtype,
                                                    at::Device device, bool trainable, ops::Fp8 fp8) {
  at::NoGradGuard no_grad;
  auto model = std::make_unique<models::LanguageModel>(config);
  model->compute = dtype;
  uint64_t stream = 0;
  model->each_param([&](const std::string& name, nn::Param& p) {
    p.allocate(models::held_type(name, p, dtype, trainable), device);
    if (p.numel() < fill_file::drawn_on_the_host) {
      p.fill(Rng(1, ++stream));
    } else {
      p.master().normal_(0, config.init_std);
      p.changed();
    }
  });
  model->each_buffer([&](const std::string&, nn::Buffer& buffer) { buffer.value = buffer.value.to(device); });
  nn::set_fp8(model->stack(), fp8, device);
  return model;
}

}  // namespace rattan::bench
