// Tokens and their log-probabilities as clients see them.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "rattan/data/tokenizer.h"
#include "rattan/infer/engine.h"

namespace rattan::serve {

// The text that a token adds; of a control token its name; of bytes that are no whole character "bytes:\xe2\x96".
std::string token_text(const Tokenizer& tokenizer, int32_t id);

struct TokenReport {
  infer::TokenChoice token;
  std::vector<infer::TokenChoice> top;  // the most probable first
};

// "logprobs" of /v1/completions: tokens, token_logprobs, top_logprobs, text_offset. `offset` counts characters of the
// text and is moved on. `first`: the first token stands at the start of a prompt, and nothing is known of it.
nlohmann::json completion_logprobs(const Tokenizer& tokenizer, const std::vector<TokenReport>& tokens, bool first,
                                   int64_t& offset);
// "logprobs" of /v1/chat/completions: content.
nlohmann::json chat_logprobs(const Tokenizer& tokenizer, const std::vector<TokenReport>& tokens);

}  // namespace rattan::serve
