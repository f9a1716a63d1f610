#include "rattan/serve/token_names.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "rattan/data/utf8.h"

namespace rattan::serve {
namespace token_names_file {

using nlohmann::json;

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const std::size_t n = utf8_length(text);
    if (n == 0) return false;
    text.remove_prefix(n);
  }
  return true;
}

// JSON has no infinity.
double finite(double logprob) { return std::isfinite(logprob) ? logprob : -9999.0; }

int64_t characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

json bytes_of(std::string_view text) {
  json bytes = json::array();
  for (const char c : text) bytes.push_back(static_cast<unsigned char>(c));
  return bytes;
}

json chat_token(const Tokenizer& tokenizer, const infer::TokenChoice& token) {
  return {{"token", token_text(tokenizer, token.id)},
          {"logprob", finite(token.logprob)},
          {"bytes", bytes_of(tokenizer.decode_piece(token.id))}};
}

}  // namespace token_names_file

std::string token_text(const Tokenizer& tokenizer, int32_t id) {
  const std::string_view bytes = tokenizer.decode_piece(id);
  if (bytes.empty()) return tokenizer.piece_name(id);
  if (token_names_file::is_utf8(bytes)) return std::string(bytes);
  std::string out = "bytes:";
  for (const char c : bytes) out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return out;
}

nlohmann::json completion_logprobs(const Tokenizer& tokenizer, const std::vector<TokenReport>& tokens, bool first,
                                   int64_t& offset) {
  using namespace token_names_file;
  json names = json::array(), logprobs = json::array(), tops = json::array(), offsets = json::array();
  for (const TokenReport& report : tokens) {
    const std::string name = token_text(tokenizer, report.token.id);
    names.push_back(name);
    offsets.push_back(offset);
    offset += characters(tokenizer.decode_piece(report.token.id));
    if (first) {
      logprobs.push_back(nullptr);
      tops.push_back(nullptr);
      first = false;
      continue;
    }
    logprobs.push_back(finite(report.token.logprob));
    // Two tokens may read alike; the chosen one and then the more probable one count.
    json top = {{name, finite(report.token.logprob)}};
    for (const infer::TokenChoice& choice : report.top)
      if (choice.id != report.token.id) top.emplace(token_text(tokenizer, choice.id), finite(choice.logprob));
    tops.push_back(std::move(top));
  }
  return {{"tokens", std::move(names)},
          {"token_logprobs", std::move(logprobs)},
          {"top_logprobs", std::move(tops)},
          {"text_offset", std::move(offsets)}};
}

nlohmann::json chat_logprobs(const Tokenizer& tokenizer, const std::vector<TokenReport>& tokens) {
  using namespace token_names_file;
  json content = json::array();
  for (const TokenReport& report : tokens) {
    json entry = chat_token(tokenizer, report.token);
    json& top = entry["top_logprobs"] = json::array();
    for (const infer::TokenChoice& choice : report.top) top.push_back(chat_token(tokenizer, choice));
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

}  // namespace rattan::serve
