// Text from a language model: many sequences at once, of any lengths.
//
// Identical prompts are read once and their state is copied. Prompts are read in pieces (chunked prefill); every
// decoding step feeds the newest token of all running sequences to the model in one call.
//
// A token depends on (seed, sample, position) and its logits alone. In fp32 the last bits of a matrix product depend on
// how many rows it has, so another batch may give another text from the same seed. With `strict` every sequence
// goes through the model by itself, in pieces cut by its own length alone: then its text is the same whatever runs
// beside it, at the speed of one sequence.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "rattan/data/tokenizer.h"
#include "rattan/infer/sampler.h"
#include "rattan/models/model.h"

namespace rattan::infer {

enum class Finish : int8_t {
  length,           // max_tokens were made
  end_of_document,  // the model chose the end token
  stop,             // the text reached a stop string
};
const char* name_of(Finish finish);  // "length", "end", "stop"

struct Request {
  std::vector<int32_t> prompt;  // empty: start_of_text() takes its place
  int64_t max_tokens = 256;
  SamplerConfig sampling;
  std::vector<std::string> stop;  // the text ends before the first of these
  int32_t end_token = -1;         // ends the sequence; -1: none does
  uint64_t seed = 0, sample = 0;  // of equal requests, those with equal seed and sample make equal choices
};

struct TokenEvent {
  std::size_t request = 0;
  int32_t id = 0;
  double logprob = 0;
  std::string text;              // what can be shown now: whole characters, no part of a stop string
  std::optional<Finish> finish;  // set with a request's last token
};

struct Generation {
  std::vector<int32_t> ids;      // all tokens made, also an end token and those of a stop string
  std::vector<double> logprobs;  // one an id, under the model itself (natural logarithm)
  std::string text;              // valid UTF-8, without the stop string
  Finish finish = Finish::length;
};

struct Timing {
  int64_t prefill_tokens = 0, decode_tokens = 0;  // the first token of each sequence comes out of prefill
  double prefill_seconds = 0, decode_seconds = 0;
};

struct GeneratorConfig {
  int64_t prefill_chunk = 512;  // tokens of one call of the model
  bool strict = false;
  bool graph = false;           // on a GPU: record a decoding step and replay it
  int64_t trained_context = 0;  // longer sequences make one warning; 0: unknown
  std::function<void(const std::string&)> warn;
};

// What an empty prompt starts from: the begin-of-text token or, where there is none, the end of the document before.
// InputError if the vocabulary has neither.
int32_t start_of_text(const Tokenizer& tokenizer);

class Generator {
 public:
  // Model and tokenizer must outlive the generator.
  Generator(models::Model& model, const Tokenizer& tokenizer, GeneratorConfig config = {});

  // One result a request. `on_token` sees every token as it is made, request by request within a step.
  // InputError for a request that cannot be, before anything runs.
  std::vector<Generation> run(const std::vector<Request>& requests,
                              const std::function<void(const TokenEvent&)>& on_token = {});

  const Timing& timing() const { return timing_; }  // of the last run

 private:
  models::Model& model_;
  const Tokenizer& tokenizer_;
  GeneratorConfig config_;
  Timing timing_;
};

}  // namespace rattan::infer
