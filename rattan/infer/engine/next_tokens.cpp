#include "rattan/infer/engine/next_tokens.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <cmath>

#include "rattan/base/error.h"
#include "rattan/base/parallel.h"

namespace rattan::infer {
namespace next_tokens_file {

std::vector<TokenChoice> plain(const std::vector<Choice>& choices) {
  std::vector<TokenChoice> out;
  for (const Choice& c : choices) out.push_back({c.id, c.logprob});
  return out;
}

// A copy that the next step does not overwrite; on a GPU it is made in the stream, and the host goes on.
at::Tensor on_its_way(const at::Tensor& device) {
  const bool pinned = device.is_cuda();
  at::Tensor host = at::empty(device.sizes(), device.options().device(at::kCPU).pinned_memory(pinned));
  return host.copy_(device, /*non_blocking=*/pinned);
}

NextToken choose_one(const Sequence& s, std::span<const float> logits) {
  NextToken out;
  const EngineRequest& r = s.request();
  const Past past{.tokens = s.ids,
                  .prompt = static_cast<std::size_t>(s.prompt()),
                  .bias = &r.logit_bias,
                  .allowed = r.grammar ? &r.grammar->allowed(s.grammar) : nullptr};
  Rng rng = position_rng(r.seed, static_cast<uint64_t>(s.choice), s.ids.size());
  try {
    out.choice = choose(logits, past, r.sampling, rng);
    if (r.top_logprobs > 0) out.top = plain(most_probable(logits, r.top_logprobs));
  } catch (const Error& error) {
    out.error = error.what();
  }
  return out;
}

}  // namespace next_tokens_file

bool draws_plainly(const Sequence& s) {
  const EngineRequest& r = s.request();
  return r.sampling.draws_plainly() && r.logit_bias.empty() && !r.grammar && r.top_logprobs <= 0;
}

kernels::DrawRule draw_rule(const Sequence& s) {
  const EngineRequest& r = s.request();
  if (r.sampling.temperature == 0) return {};
  Rng rng = position_rng(r.seed, static_cast<uint64_t>(s.choice), static_cast<uint64_t>(s.coming()));
  return {.uniform = rng.uniform(),
          .temperature = r.sampling.temperature,
          .top_k = static_cast<double>(r.sampling.top_k),
          .top_p = r.sampling.top_p,
          .min_p = r.sampling.min_p};
}

std::vector<NextToken> next_tokens(const std::vector<Sequence*>& sequences, const Reader::Next& next,
                                   int64_t vocabulary) {
  std::vector<NextToken> out(sequences.size());
  std::vector<int32_t> rows;
  at::Tensor ids, logprobs;
  if (next.ids.defined()) ids = next.ids.to(at::kCPU), logprobs = next.logprobs.to(at::kCPU);
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    if (ids.defined() && draws_plainly(*sequences[i])) {
      const double logprob = logprobs.const_data_ptr<double>()[i];
      out[i].choice = {static_cast<int32_t>(ids.const_data_ptr<int64_t>()[i]), logprob};
      if (std::isfinite(logprob)) continue;  // else the choice on the host says what is wrong
    }
    rows.push_back(static_cast<int32_t>(i));
  }
  if (rows.empty()) return out;
  at::Tensor logits = next.logits.narrow(1, 0, std::min(vocabulary, next.logits.size(1)));
  if (rows.size() < sequences.size()) logits = logits.index_select(0, ids_tensor(rows, logits.device()));
  logits = logits.to(at::kCPU, at::kFloat).contiguous();
  const auto width = static_cast<std::size_t>(logits.size(1));
  parallel_for(static_cast<int64_t>(rows.size()), [&](int64_t k) {
    const auto i = static_cast<std::size_t>(rows[static_cast<std::size_t>(k)]);
    out[i] = next_tokens_file::choose_one(*sequences[i],
                                          {logits.const_data_ptr<float>() + k * static_cast<int64_t>(width), width});
  });
  return out;
}

Flight::Flight(std::vector<Sequence*> sequences, const Reader::Next& next) : sequences_(std::move(sequences)) {
  using next_tokens_file::on_its_way;
  ids_ = on_its_way(next.ids), logprobs_ = on_its_way(next.logprobs);
  if (!next.ids.is_cuda()) return;
  arrived_.emplace(c10::DeviceType::CUDA);
  arrived_->record(c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA).getStream(next.ids.device()));
}

std::vector<NextToken> Flight::land() {
  if (arrived_) arrived_->synchronize();
  std::vector<NextToken> out(sequences_.size());
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i].choice = {static_cast<int32_t>(ids_.const_data_ptr<int64_t>()[i]), logprobs_.const_data_ptr<double>()[i]};
    if (!std::isfinite(out[i].choice.logprob))
      out[i].error = "a logit is no number, or infinite: the model's weights or its computation are damaged";
  }
  return out;
}

int64_t Flight::place(const Sequence& sequence) const {
  const auto at = std::find(sequences_.begin(), sequences_.end(), &sequence);
  return at == sequences_.end() ? -1 : at - sequences_.begin();
}

void Flight::forget(const Sequence& sequence) {
  for (Sequence*& s : sequences_)
    if (s == &sequence) s = nullptr;
}

std::vector<TokenChoice> told(std::span<const float> logits, int32_t id, int64_t n) {
  using next_tokens_file::plain;
  std::vector<TokenChoice> out = plain(probabilities(logits, {&id, 1}));
  if (n > 0) {
    const std::vector<TokenChoice> top = plain(most_probable(logits, n));
    out.insert(out.end(), top.begin(), top.end());
  }
  return out;
}

}  // namespace rattan::infer
