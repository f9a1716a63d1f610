// What clients ask for, out of the bodies that they send. Pure functions: text in, structure or ApiError out.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "rattan/infer/sampler.h"

namespace rattan::serve {

// What this server can do; stands in errors.
struct RequestLimits {
  int64_t vocab_size = 0;
  int64_t max_context = 4096;    // tokens of prompt and answer
  int64_t max_prompts = 256;     // of one request
  int64_t max_choices = 128;     // n, best_of
  int64_t max_logprobs = 20;     // alternatives told with a token
  int64_t max_stops = 16;        // stop strings
  int64_t max_stop_bytes = 512;  // of each
};

using Prompt = std::variant<std::string, std::vector<int32_t>>;

struct Shape {  // what the text must look like
  enum class Kind : int8_t { free, json_object, json_schema, regex };
  Kind kind = Kind::free;
  std::string text;  // the schema as JSON, or the expression
};

// What both kinds of completion share.
struct CommonParams {
  std::string model;
  std::optional<int64_t> max_tokens;
  int64_t n = 1;
  infer::SamplerConfig sampling;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  std::map<int32_t, float> logit_bias;
  bool stream = false, include_usage = false;
  bool ignore_end = false;  // go on behind an end token
  bool token_ids = false;   // tell the ids of the tokens made
  Shape shape;
};

struct CompletionParams : CommonParams {
  std::vector<Prompt> prompts;
  int64_t best_of = 1;
  int64_t logprobs = -1;  // alternatives; -1: none are told
  bool echo = false;
};

struct Message {
  std::string role, content;  // "system", "user" or "assistant"
};

struct ChatParams : CommonParams {
  std::vector<Message> messages;
  bool logprobs = false;
  int64_t top_logprobs = 0;
};

struct TokenizeParams {
  std::string model;
  std::optional<std::string> text;
  std::vector<Message> messages;  // where there is no text
  bool pieces = false;            // tell the tokens as the vocabulary writes them
};

struct DetokenizeParams {
  std::string model;
  std::vector<int32_t> tokens;
};

struct StateParams {
  std::string name;               // letters, digits, '-', '_' and '.', not first; at most 64
  std::optional<Prompt> prompt;   // save: what was read
  std::vector<Message> messages;  // or this
};

CompletionParams parse_completion(std::string_view body, const RequestLimits& limits);
ChatParams parse_chat(std::string_view body, const RequestLimits& limits);
TokenizeParams parse_tokenize(std::string_view body, const RequestLimits& limits);
DetokenizeParams parse_detokenize(std::string_view body, const RequestLimits& limits);
StateParams parse_state(std::string_view body, const RequestLimits& limits, bool save);

}  // namespace rattan::serve
