// A body is either refused with ApiError, whose message is short and valid JSON text, or read; what was read keeps to
// the limits. Long bodies are read as short ones are. The first byte says which route a body is for.
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "rattan/serve/api_error.h"
#include "rattan/serve/json_body.h"
#include "rattan/serve/request.h"

namespace rattan::request_fuzz {

void check(bool holds) {
  if (!holds) std::abort();
}

void check_prompt(const serve::Prompt& prompt, const serve::RequestLimits& limits) {
  if (const auto* text = std::get_if<std::string>(&prompt)) return check(!text->empty());
  const auto& ids = std::get<std::vector<int32_t>>(prompt);
  check(!ids.empty() && static_cast<int64_t>(ids.size()) <= limits.max_context);
  for (const int32_t id : ids) check(id >= 0 && id < limits.vocab_size);
}

void check_common(const serve::CommonParams& p, const serve::RequestLimits& limits) {
  check(p.n >= 1 && p.n <= limits.max_choices);
  check(p.sampling.temperature >= 0 && p.sampling.temperature <= 2);
  check(p.sampling.top_p > 0 && p.sampling.top_p <= 1);
  check(p.sampling.top_k >= 0 && p.sampling.repetition_penalty > 0);
  check(static_cast<int64_t>(p.stop.size()) <= limits.max_stops);
  for (const std::string& stop : p.stop) check(!stop.empty());
  for (const auto& [id, bias] : p.logit_bias) check(id >= 0 && id < limits.vocab_size && bias >= -100 && bias <= 100);
}

void unpack(nlohmann::json& value) {
  if (value.is_binary()) {
    nlohmann::json list = nlohmann::json::array();
    for (const int64_t x : serve::packed_integers(value)) x < 0 ? list.push_back(x) : list.push_back(uint64_t(x));
    value = std::move(list);
  } else if (value.is_structured()) {
    for (nlohmann::json& item : value) unpack(item);
  }
}

std::optional<std::string> read(std::string_view body) {
  try {
    nlohmann::json value = serve::parse_object(body);
    unpack(value);
    return value.dump();
  } catch (const serve::ApiError&) {
    return std::nullopt;
  }
}

// Blanks make a body long without another meaning.
void check_long(std::string_view body) { check(read(body) == read(std::string(body) + std::string(5000, ' '))); }

void run(uint8_t route, std::string_view body) {
  serve::RequestLimits limits;
  limits.vocab_size = 257;
  limits.max_context = 1000;
  try {
    switch (route % 6) {
      case 0: {
        const serve::CompletionParams p = serve::parse_completion(body, limits);
        check_common(p, limits);
        check(!p.prompts.empty() && p.best_of >= p.n && p.logprobs <= limits.max_logprobs && *p.max_tokens >= 0);
        for (const serve::Prompt& prompt : p.prompts) check_prompt(prompt, limits);
        break;
      }
      case 1: {
        const serve::ChatParams p = serve::parse_chat(body, limits);
        check_common(p, limits);
        check(!p.messages.empty());
        break;
      }
      case 2:
        serve::parse_tokenize(body, limits);
        break;
      case 3:
        serve::parse_detokenize(body, limits);
        break;
      default: {
        const serve::StateParams p = serve::parse_state(body, limits, route % 6 == 4);
        check(p.name.find('/') == std::string::npos && p.name.front() != '.');
      }
    }
  } catch (const serve::ApiError& error) {
    check(error.status >= 400 && error.message.size() < 1000);
    error.json().dump();  // throws for text that is not UTF-8
  }
}

}  // namespace rattan::request_fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view body(reinterpret_cast<const char*>(data + 1), size - 1);
  rattan::request_fuzz::run(data[0], body);
  rattan::request_fuzz::check_long(body);
  return 0;
}
