#include "rattan/infer/generator.h"

#include <ATen/ops/index_select.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <map>
#include <optional>

#include "rattan/base/error.h"
#include "rattan/base/parallel.h"
#include "rattan/infer/context.h"
#include "rattan/infer/text_stream.h"

namespace rattan::infer {
namespace generator_file {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// A request on its way.
struct Sequence {
  Sequence(std::size_t index_in, const Request& request_in, std::vector<int32_t> prompt, const Tokenizer& tokenizer)
      : index(index_in),
        request(request_in),
        ids(std::move(prompt)),
        text(tokenizer, request.stop, !request.prompt.empty()) {}

  std::size_t prompt_size() const { return ids.size() - result.ids.size(); }

  std::size_t index;
  const Request& request;
  std::vector<int32_t> ids;  // prompt and what was made
  TextStream text;
  Generation result;
  bool done = false;
};

void check(const Request& request, const Tokenizer& tokenizer) {
  request.sampling.validate();
  require(request.max_tokens >= 1, "the number of tokens to generate must be at least 1, got {}", request.max_tokens);
  for (int32_t id : request.prompt)
    require(id >= 0 && id < tokenizer.vocab_size(), "token id {} of the prompt is not in the vocabulary (0 to {})", id,
            tokenizer.vocab_size() - 1);
}

// Takes a token into its sequence and tells what can be shown of it.
TokenEvent accept(Sequence& s, const Choice& choice) {
  TokenEvent event{s.index, choice.id, choice.logprob, "", {}};
  s.ids.push_back(choice.id);
  s.result.ids.push_back(choice.id);
  s.result.logprobs.push_back(choice.logprob);
  if (choice.id == s.request.end_token) {
    event.finish = Finish::end_of_document;
  } else {
    event.text = s.text.push(choice.id);
    if (s.text.stopped()) {
      event.finish = Finish::stop;
    } else if (static_cast<int64_t>(s.result.ids.size()) >= s.request.max_tokens) {
      event.finish = Finish::length;
    }
  }
  if (event.finish) {
    event.text += s.text.finish();
    s.result.finish = *event.finish;
    s.done = true;
  }
  s.result.text += event.text;
  return event;
}

class Run {
 public:
  Run(models::Model& model, const Tokenizer& tokenizer, const GeneratorConfig& config,
      const std::vector<Request>& requests, const std::function<void(const TokenEvent&)>& on_token)
      : tokenizer_(tokenizer), config_(config), on_token_(on_token) {
    int64_t capacity = 1;
    for (const Request& request : requests) {
      check(request, tokenizer);
      std::vector<int32_t> prompt = request.prompt;
      if (prompt.empty()) prompt = {start_of_text(tokenizer)};
      // The last token made is never read. Long texts mostly end early, so room for them is made when they need it.
      constexpr int64_t first_room = 512;
      capacity = std::max(capacity, static_cast<int64_t>(prompt.size()) + std::min(request.max_tokens - 1, first_room));
      const auto row = static_cast<int64_t>(prompts_.size());
      const auto [place, fresh] = row_of_prompt_.try_emplace(prompt, row);
      if (fresh) prompts_.push_back(&place->first);
      rows_.push_back(place->second);
      sequences_.emplace_back(sequences_.size(), request, std::move(prompt), tokenizer);
    }
    context_.emplace(model, static_cast<int64_t>(prompts_.size()), capacity, config.graph);
    whole_prefix_ = model.state_spec().needs_whole_prefix();
  }

  std::vector<Generation> run(Timing& timing) {
    timing = {};
    auto start = std::chrono::steady_clock::now();
    const std::vector<at::Tensor> by_row = prefill();
    for (const auto* prompt : prompts_) timing.prefill_tokens += static_cast<int64_t>(prompt->size());
    std::vector<Sequence*> active;
    std::vector<at::Tensor> logits;
    for (Sequence& s : sequences_) {
      active.push_back(&s);
      logits.push_back(by_row[static_cast<std::size_t>(rows_[s.index])]);
    }
    if (prompts_.size() < rows_.size()) context_->select(rows_);
    take(active, choose_from(active, logits));
    timing.prefill_seconds = seconds_since(start);

    start = std::chrono::steady_clock::now();
    while (std::erase_if(active, [](const Sequence* s) { return s->done; }), !active.empty()) {
      take(active, decode(active));
      timing.decode_tokens += static_cast<int64_t>(active.size());
    }
    timing.decode_seconds = seconds_since(start);

    std::vector<Generation> out;
    for (Sequence& s : sequences_) out.push_back(std::move(s.result));
    return out;
  }

 private:
  // The logits behind each prompt, [V] on the host.
  std::vector<at::Tensor> prefill() {
    std::vector<at::Tensor> out(prompts_.size());
    std::vector<std::size_t> read(prompts_.size(), 0);
    std::size_t first = 0;
    while (first < prompts_.size()) {
      std::vector<Context::Piece> pieces;
      std::vector<int64_t> ends;          // rows of h after which a prompt is complete
      std::vector<std::size_t> complete;  // and which prompt that is
      int64_t tokens = 0;
      for (std::size_t i = first; i < prompts_.size() && tokens < config_.prefill_chunk; ++i) {
        const std::size_t left = prompts_[i]->size() - read[i];
        const std::size_t n =
            whole_prefix_ ? left : std::min(left, static_cast<std::size_t>(config_.prefill_chunk - tokens));
        pieces.push_back({static_cast<int64_t>(i), std::span(*prompts_[i]).subspan(read[i], n)});
        tokens += static_cast<int64_t>(n);
        read[i] += n;
        if (read[i] == prompts_[i]->size()) {
          ends.push_back(tokens - 1);
          complete.push_back(i);
          first = i + 1;
        }
        if (config_.strict) break;
      }
      watch_length(pieces);
      const at::Tensor h = context_->extend(pieces);
      if (ends.empty()) continue;
      const std::vector<at::Tensor> rows = logits_of(h.index_select(0, index_tensor(ends)));
      for (std::size_t i = 0; i < complete.size(); ++i) out[complete[i]] = rows[i];
    }
    return out;
  }

  // The next token of each.
  std::vector<Choice> decode(const std::vector<Sequence*>& active) {
    std::vector<Context::Piece> pieces;
    for (const Sequence* s : active) pieces.push_back({static_cast<int64_t>(s->index), std::span(s->ids).last(1)});
    watch_length(pieces);
    if (config_.strict) {
      std::vector<at::Tensor> logits;
      for (const Context::Piece& piece : pieces) logits.push_back(logits_of(context_->extend({&piece, 1})).front());
      return choose_from(active, logits);
    }
    const bool greedy =
        std::all_of(active.begin(), active.end(), [](const Sequence* s) { return s->request.sampling.takes_best(); });
    const auto n = static_cast<int64_t>(active.size());
    const Context::Next next = context_->step(pieces, greedy ? tokenizer_.vocab_size() : 0);
    if (next.ids.defined())
      if (auto choices = chosen(next.ids.narrow(0, 0, n), next.logprobs.narrow(0, 0, n))) return *choices;
    return choose_from(active, next.logits.narrow(0, 0, n).to(at::kCPU).contiguous().unbind(0));
  }

  // What the device chose; nothing where its numbers are damaged, which the choice on the host then reports.
  static std::optional<std::vector<Choice>> chosen(const at::Tensor& ids, const at::Tensor& logprobs) {
    const at::Tensor id = ids.to(at::kCPU), logprob = logprobs.to(at::kCPU);
    std::vector<Choice> choices;
    for (int64_t i = 0; i < id.size(0); ++i) {
      const double value = logprob.const_data_ptr<double>()[i];
      if (!std::isfinite(value)) return std::nullopt;
      choices.push_back({static_cast<int32_t>(id.const_data_ptr<int64_t>()[i]), value});
    }
    return choices;
  }

  std::vector<at::Tensor> logits_of(const at::Tensor& h) {
    return context_->logits(h).to(at::kCPU, at::kFloat).contiguous().unbind(0);
  }

  at::Tensor index_tensor(const std::vector<int64_t>& values) const {
    const std::vector<int32_t> narrow(values.begin(), values.end());
    return ids_tensor(narrow, context_->device());
  }

  // The vocabulary of a model may be larger than the tokenizer's; only ids that mean something are chosen.
  std::vector<Choice> choose_from(const std::vector<Sequence*>& active, const std::vector<at::Tensor>& logits) {
    std::vector<Choice> choices(active.size());
    parallel_for(static_cast<int64_t>(active.size()), [&](int64_t i) {
      const Sequence& s = *active[static_cast<std::size_t>(i)];
      const at::Tensor& row = logits[static_cast<std::size_t>(i)];
      const int64_t known = std::min(row.numel(), tokenizer_.vocab_size());
      Rng rng = position_rng(s.request.seed, s.request.sample, s.ids.size());
      choices[static_cast<std::size_t>(i)] =
          choose({row.const_data_ptr<float>(), static_cast<std::size_t>(known)},
                 {.tokens = s.ids, .prompt = s.prompt_size()}, s.request.sampling, rng);
    });
    return choices;
  }

  void take(const std::vector<Sequence*>& active, const std::vector<Choice>& choices) {
    for (std::size_t i = 0; i < active.size(); ++i) {
      const TokenEvent event = accept(*active[i], choices[i]);
      if (active[i]->done) context_->release(static_cast<int64_t>(active[i]->index));
      if (on_token_) on_token_(event);
    }
  }

  void watch_length(const std::vector<Context::Piece>& pieces) {
    if (warned_ || config_.trained_context <= 0 || !config_.warn) return;
    for (const Context::Piece& piece : pieces) {
      if (context_->length(piece.row) + static_cast<int64_t>(piece.ids.size()) <= config_.trained_context) continue;
      config_.warn(
          fmt::format("the text is longer than the {} tokens this model was trained on; what follows may be worse",
                      config_.trained_context));
      warned_ = true;
      return;
    }
  }

  const Tokenizer& tokenizer_;
  const GeneratorConfig& config_;
  const std::function<void(const TokenEvent&)>& on_token_;
  std::deque<Sequence> sequences_;
  std::map<std::vector<int32_t>, int64_t> row_of_prompt_;
  std::vector<const std::vector<int32_t>*> prompts_;  // different ones, by state row during prefill
  std::vector<int64_t> rows_;                         // of each request's prompt
  std::optional<Context> context_;
  bool whole_prefix_ = false, warned_ = false;
};

}  // namespace generator_file

const char* name_of(Finish finish) {
  switch (finish) {
    case Finish::length:
      return "length";
    case Finish::end_of_document:
      return "end";
    case Finish::stop:
      return "stop";
  }
  return "";
}

int32_t start_of_text(const Tokenizer& tokenizer) {
  if (tokenizer.bos() >= 0) return tokenizer.bos();
  require(tokenizer.eos() >= 0, "the prompt is empty and the vocabulary has no token that could stand before a text");
  return tokenizer.eos();
}

Generator::Generator(models::Model& model, const Tokenizer& tokenizer, GeneratorConfig config)
    : model_(model), tokenizer_(tokenizer), config_(std::move(config)) {
  require(config_.prefill_chunk >= 1, "a prefill chunk must hold at least 1 token, got {}", config_.prefill_chunk);
}

std::vector<Generation> Generator::run(const std::vector<Request>& requests,
                                       const std::function<void(const TokenEvent&)>& on_token) {
  if (requests.empty()) return {};
  return generator_file::Run(model_, tokenizer_, config_, requests, on_token).run(timing_);
}

}  // namespace rattan::infer
