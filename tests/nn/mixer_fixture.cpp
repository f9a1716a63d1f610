#include "tests/nn/mixer_fixture.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <torch/csrc/autograd/autograd.h>

#include <cstring>
#include <limits>
#include <set>

#include "rattan/base/config.h"
#include "rattan/base/error.h"

namespace rattan::nn {
extern const MixerType ema_mixer;  // tests/probes/walkthrough_mixer.cpp
}

namespace rattan::mixer_suite {
namespace mixer_fixture_file {

struct OptionSet {
  const char* label;
  const char* options;
  bool attends = true;                     // asks its call's core for attention, once
  const nn::MixerType* outside = nullptr;  // a type that the registry does not list; `options` has no key `type` then
};

const OptionSet option_sets[] = {
    {"rat_l1", "type = 'rat'\nn_heads = 4\nn_groups = 2\nchunk = 1"},
    {"rat_l4", "type = 'rat'\nn_heads = 4\nn_groups = 2\nchunk = 4"},
    {"rat_l16_nope", "type = 'rat'\nn_heads = 2\nn_groups = 1\nchunk = 16\nrope = false"},
    {"rat_whole", "type = 'rat'\nn_heads = 4\nn_groups = 4\nchunk = 4096"},
    {"attention", "type = 'attention'\nn_heads = 4"},
    {"attention_grouped_nope", "type = 'attention'\nn_heads = 4\nn_kv_heads = 2\nrope = false"},
    {"swa_5", "type = 'swa'\nn_heads = 4\nwindow = 5"},
    {"swa_0", "type = 'swa'\nn_heads = 4\nn_kv_heads = 1\nwindow = 0"},
    {"rnn", "type = 'rnn'\nmemory = 64", false},
    {"ema", "memory = 64", false, &nn::ema_mixer},
};

const char* dtype_label(at::ScalarType dtype) {
  return dtype == at::kDouble ? "fp64" : dtype == at::kFloat ? "fp32" : "bf16";
}

}  // namespace mixer_fixture_file

void PrintTo(const MixerCase& c, std::ostream* out) { *out << c.label; }
std::string name_of(const testing::TestParamInfo<MixerCase>& info) { return info.param.label; }

std::vector<MixerCase> cases() {
  using namespace mixer_fixture_file;
  std::vector<MixerCase> out;
  std::set<std::string> covered;
  std::vector<at::Device> devices = {at::kCPU};
  if (at::hasCUDA()) devices.push_back(at::Device(at::kCUDA, 0));
  for (const OptionSet& set : option_sets)
    for (at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
      for (at::Device device : devices)
        out.push_back({fmt::format("{}_{}{}", set.label, dtype_label(dtype), device.is_cuda() ? "_cuda" : ""),
                       set.options, dtype, device, set.attends, set.outside});
      if (set.outside) continue;
      nn::MixerConfig config;
      ConfigTree::from_text(set.options, set.label).read(config);
      covered.insert(config.type);
    }
  for (const nn::MixerType& type : nn::mixer_types())
    if (!covered.contains(type.name)) fail("the generic suite has no option set for the mixer '{}'", type.name);
  return out;
}

Errors errors_of(at::ScalarType dtype) {
  if (dtype == at::kDouble) return {1e-12, 1e-11};
  if (dtype == at::kFloat) return {2e-5, 1e-4};
  return {4e-2, 8e-2};
}

std::unique_ptr<nn::Mixer> make_mixer(const MixerCase& c, at::ScalarType dtype, uint64_t seed) {
  const nn::MixerContext context{.d_model = d_model, .init_std = 0.3};
  const ConfigTree tree = ConfigTree::from_text(c.options, c.label);
  std::unique_ptr<nn::Mixer> mixer;
  if (c.outside) {
    auto options = c.outside->options();
    tree.read_with([&](Fields& f) { options->fields(f); });
    mixer = options->make(context);
  } else {
    nn::MixerConfig config;
    tree.read(config);
    mixer = config.make(context);
  }
  mixer->initialize(seed, dtype == at::kDouble ? at::kDouble : at::kFloat, c.device);
  return mixer;
}

at::Tensor random_input(int64_t rows, int64_t tokens, uint64_t seed) {
  at::Tensor x = at::empty({rows, tokens, d_model}, at::kDouble);
  Rng rng(seed);
  double* out = x.data_ptr<double>();
  for (int64_t i = 0; i < x.numel(); ++i) out[i] = rng.normal();
  return x.to(at::kBFloat16).to(at::kDouble);
}

double difference(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.detach().cpu().to(at::kDouble), y = b.detach().cpu().to(at::kDouble);
  if (!at::isfinite(x).all().item<bool>()) return std::numeric_limits<double>::infinity();
  const double scale = y.numel() ? y.abs().max().item<double>() : 0;
  const double error = y.numel() ? (x - y).abs().max().item<double>() : 0;
  return error == 0 ? 0 : error / std::max(scale, 1e-30);
}

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.detach().cpu().contiguous(), y = b.detach().cpu().contiguous();
  return x.sizes() == y.sizes() && x.scalar_type() == y.scalar_type() &&
         std::memcmp(x.data_ptr(), y.data_ptr(), x.nbytes()) == 0;
}

at::Tensor run_forward(nn::Mixer& mixer, const at::Tensor& x, const nn::Layout& layout) {
  at::NoGradGuard no_grad;
  nn::Call call{layout};
  return mixer.forward(x, call);
}

at::Tensor run_forward(nn::Mixer& mixer, const at::Tensor& x, nn::State* carry) {
  at::NoGradGuard no_grad;
  const nn::Layout layout = nn::Layout::uniform(x.size(0), x.size(1), x.device(), carry != nullptr);
  nn::Call call{layout};
  call.carry = carry;
  return mixer.forward(x, call);
}

at::Tensor run_extend(nn::Mixer& mixer, const at::Tensor& x, int64_t from, int64_t to, nn::State& state) {
  at::NoGradGuard no_grad;
  std::vector<nn::Segment> segments(x.size(0));
  for (int32_t row = 0; row < x.size(0); ++row)
    segments[row] = {.row = row,
                     .begin = 0,
                     .end = static_cast<int32_t>(to - from),
                     .pos0 = static_cast<int32_t>(from),
                     .from = from == 0 ? -1 : row,
                     .to = row};
  const nn::Layout layout(x.size(0), to - from, segments, x.device());
  nn::Call call{layout};
  return mixer.extend(x.slice(1, from, to).contiguous(), state, call);
}

std::map<std::string, at::Tensor> gradients(nn::Mixer& mixer, const at::Tensor& x, const at::Tensor& dy,
                                            const nn::Layout& layout) {
  mixer.each_param([](const std::string&, nn::Param& p) { p.master().mutable_grad() = at::Tensor(); });
  at::Tensor leaf = x.detach().clone().set_requires_grad(true);
  nn::Call call{layout};
  call.mode = nn::Mode::train;
  torch::autograd::backward({mixer.forward(leaf, call)}, {dy.to(x.options())});
  std::map<std::string, at::Tensor> out = {{"x", leaf.grad()}};
  mixer.each_param([&](const std::string& name, nn::Param& p) { out[name] = p.master().grad().clone(); });
  return out;
}

}  // namespace rattan::mixer_suite
