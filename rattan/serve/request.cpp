#include "rattan/serve/request.h"

#include "rattan/serve/json_body.h"

namespace rattan::serve {
namespace request_file {

using nlohmann::json;

std::vector<int32_t> read_ids(const json& array, const std::string& name, const RequestLimits& limits) {
  std::vector<int32_t> ids;
  auto known = [&](int64_t id) { return id >= 0 && id < limits.vocab_size; };
  auto refuse_id = [&](const json& id) {
    refuse(name, "'{}' holds {}, but token ids go from 0 to {}", name, id.dump(), limits.vocab_size - 1);
  };
  if (array.is_binary()) {
    const std::vector<int64_t> packed = packed_integers(array);
    ids.reserve(packed.size());
    for (const int64_t id : packed) known(id) ? ids.push_back(static_cast<int32_t>(id)) : refuse_id(id);
  } else {
    ids.reserve(array.size());
    for (const json& item : array) {
      if (!item.is_number_integer())
        refuse(name, "'{}' must hold token ids; at {} stands {}", name, ids.size(), kind_of(item));
      const bool beyond = item.is_number_unsigned() && item.get<uint64_t>() > INT32_MAX;
      if (beyond || !known(item.get<int64_t>())) refuse_id(item);
      ids.push_back(item.get<int32_t>());
    }
  }
  if (ids.empty()) refuse(name, "'{}' must not be empty", name);
  // What cannot fit is not kept: a stranger's request should cost no more than its bytes.
  if (static_cast<int64_t>(ids.size()) > limits.max_context)
    throw ApiError(
        400,
        fmt::format("'{}' has {} tokens; prompt and answer together may have {}", name, ids.size(), limits.max_context),
        name, "context_length_exceeded");
  return ids;
}

Prompt read_one(const json& value, const std::string& name, const RequestLimits& limits) {
  if (is_array(value)) return read_ids(value, name, limits);
  if (!value.is_string()) refuse(name, "'{}' must be a string or an array of token ids, not {}", name, kind_of(value));
  auto text = value.get<std::string>();
  if (text.empty()) refuse(name, "'{}' must not be empty", name);
  return text;
}

std::vector<Prompt> read_prompts(Members& members, const RequestLimits& limits) {
  const json* value = members.any("prompt");
  if (value == nullptr) refuse("prompt", "'prompt' is missing: a string, an array of token ids, or a list of these");
  const bool list = value->is_array() && !value->empty() && !value->front().is_number();
  if (!list) return {read_one(*value, "prompt", limits)};
  if (static_cast<int64_t>(value->size()) > limits.max_prompts)
    refuse("prompt", "'prompt' lists {} prompts; one request may have {}", value->size(), limits.max_prompts);
  std::vector<Prompt> prompts;
  for (const json& item : *value) prompts.push_back(read_one(item, fmt::format("prompt[{}]", prompts.size()), limits));
  return prompts;
}

std::vector<std::string> read_stops(Members& members, const RequestLimits& limits) {
  const json* value = members.any("stop");
  if (value == nullptr) return {};
  std::vector<std::string> stops;
  auto add = [&](const json& item) {
    if (!item.is_string()) refuse("stop", "'stop' must be a string or a list of strings, not {}", kind_of(item));
    stops.push_back(item.get<std::string>());
    if (stops.back().empty()) refuse("stop", "'stop' must not hold an empty string");
    if (static_cast<int64_t>(stops.back().size()) > limits.max_stop_bytes)
      refuse("stop", "a string of 'stop' may have {} bytes, not {}", limits.max_stop_bytes, stops.back().size());
  };
  if (!value->is_array()) {
    add(*value);
    return stops;
  }
  if (static_cast<int64_t>(value->size()) > limits.max_stops)
    refuse("stop", "'stop' may hold {} strings, not {}", limits.max_stops, value->size());
  for (const json& item : *value) add(item);
  return stops;
}

std::map<int32_t, float> read_bias(Members& members, const RequestLimits& limits) {
  std::map<int32_t, float> bias;
  const json* value = members.any("logit_bias");
  if (value == nullptr) return bias;
  if (!value->is_object()) refuse("logit_bias", "'logit_bias' must be an object, not {}", kind_of(*value));
  for (const auto& [key, number] : value->items()) {
    const bool digits = !key.empty() && key.size() <= 9 && key.find_first_not_of("0123456789") == std::string::npos;
    if (!digits || std::stoll(key) >= limits.vocab_size)
      refuse("logit_bias", "the names in 'logit_bias' must be token ids from 0 to {}", limits.vocab_size - 1);
    if (!number.is_number() || number.get<double>() < -100 || number.get<double>() > 100)
      refuse("logit_bias", "the values in 'logit_bias' must be numbers from -100 to 100");
    bias[static_cast<int32_t>(std::stol(key))] = number.get<float>();
  }
  return bias;
}

Shape read_shape(Members& members) {
  const json* value = members.any("response_format");
  if (value == nullptr) return {};
  Members format(*value, "response_format.");
  const std::string type = format.text("type").value_or("");
  Shape shape;
  if (type == "json_object") {
    shape = {Shape::Kind::json_object, "{\"type\":\"object\"}"};
  } else if (type == "json_schema") {
    const json* wrapped = format.any("json_schema");
    if (wrapped == nullptr) refuse("response_format.json_schema", "'response_format.json_schema' is missing");
    Members named(*wrapped, "response_format.json_schema.");
    named.text("name"), named.text("description"), named.boolean("strict");
    const json* schema = named.any("schema");
    if (schema == nullptr || !schema->is_object())
      refuse("response_format.json_schema.schema", "'response_format.json_schema.schema' must be an object");
    shape = {Shape::Kind::json_schema, schema->dump()};
    named.done();
  } else if (type == "regex") {
    const auto pattern = format.text("pattern");
    if (!pattern || pattern->empty())
      refuse("response_format.pattern", "'response_format.pattern' must be a regular expression");
    shape = {Shape::Kind::regex, *pattern};
  } else if (type != "text") {
    refuse("response_format.type", "'response_format.type' must be text, json_object, json_schema or regex");
  }
  format.done();
  return shape;
}

void read_common(Members& members, const RequestLimits& limits, CommonParams& p) {
  p.model = members.text("model").value_or("");
  p.n = members.integer("n", 1, limits.max_choices).value_or(1);
  p.sampling.temperature = members.number("temperature", 0, 2).value_or(1);
  p.sampling.top_p = members.number("top_p", 0, 1).value_or(1);
  if (p.sampling.top_p == 0) refuse("top_p", "'top_p' must be above 0");
  p.sampling.top_k = members.integer("top_k", -1, INT32_MAX).value_or(0);
  if (p.sampling.top_k == -1) p.sampling.top_k = 0;
  p.sampling.min_p = members.number("min_p", 0, 1).value_or(0);
  p.sampling.repetition_penalty = members.number("repetition_penalty", 0.01, 10).value_or(1);
  p.sampling.presence_penalty = members.number("presence_penalty", -2, 2).value_or(0);
  p.sampling.frequency_penalty = members.number("frequency_penalty", -2, 2).value_or(0);
  if (auto seed = members.integer("seed", INT64_MIN, INT64_MAX)) p.seed = static_cast<uint64_t>(*seed);
  p.stop = read_stops(members, limits);
  p.logit_bias = read_bias(members, limits);
  p.stream = members.boolean("stream").value_or(false);
  if (const json* value = members.any("stream_options")) {
    if (!p.stream) refuse("stream_options", "'stream_options' needs 'stream': true");
    Members options(*value, "stream_options.");
    p.include_usage = options.boolean("include_usage").value_or(false);
    options.done();
  }
  p.ignore_end = members.boolean("ignore_eos").value_or(false);
  p.token_ids = members.boolean("return_token_ids").value_or(false);
  p.shape = read_shape(members);
  // Where the text must end, the end token is all that may come.
  if (p.shape.kind != Shape::Kind::free && p.ignore_end)
    refuse("ignore_eos", "'ignore_eos' cannot stand beside a 'response_format' other than text");
  members.text("user");  // names the caller's user; nothing depends on it
}

// The schema again as it came: its properties keep their order, which a sorted object does not.
void keep_order(std::string_view body, Shape& shape) {
  if (shape.kind != Shape::Kind::json_schema) return;
  const auto object = nlohmann::ordered_json::parse(body.begin(), body.end());
  shape.text = object["response_format"]["json_schema"]["schema"].dump();
}

std::string read_content(const json* value, const std::string& name) {
  if (value == nullptr) refuse(name, "'{}' is missing", name);
  if (value->is_string()) return value->get<std::string>();
  if (!value->is_array()) refuse(name, "'{}' must be a string or a list of parts, not {}", name, kind_of(*value));
  std::string text;
  for (std::size_t i = 0; i < value->size(); ++i) {
    const std::string where = fmt::format("{}[{}]", name, i);
    Members part((*value)[i], where + ".");
    const std::string type = part.text("type").value_or("");
    if (type != "text") refuse(where + ".type", "'{}.type' must be text: this server reads nothing else", where);
    const auto words = part.text("text");
    if (!words) refuse(where + ".text", "'{}.text' is missing", where);
    text += *words;
    part.done();
  }
  return text;
}

std::vector<Message> read_messages(Members& members) {
  const json* value = members.any("messages");
  if (value == nullptr) refuse("messages", "'messages' is missing");
  if (!value->is_array() || value->empty()) refuse("messages", "'messages' must be a list with at least one message");
  std::vector<Message> messages;
  for (const json& item : *value) {
    const std::string where = fmt::format("messages[{}].", messages.size());
    Members message(item, where);
    Message m;
    m.role = message.text("role").value_or("");
    if (m.role == "developer") m.role = "system";
    if (m.role != "system" && m.role != "user" && m.role != "assistant")
      refuse(where + "role", "'{}role' must be system, developer, user or assistant", where);
    m.content = read_content(message.any("content"), where + "content");
    message.unsupported({"name", "tool_calls", "tool_call_id", "function_call", "audio", "refusal"});
    message.done();
    messages.push_back(std::move(m));
  }
  return messages;
}

}  // namespace request_file

CompletionParams parse_completion(std::string_view body, const RequestLimits& limits) {
  using namespace request_file;
  const json object = parse_object(body);
  Members members(object);
  CompletionParams p;
  read_common(members, limits, p);
  keep_order(body, p.shape);
  p.prompts = read_prompts(members, limits);
  p.echo = members.boolean("echo").value_or(false);
  p.max_tokens = members.integer("max_tokens", 0, INT32_MAX).value_or(16);
  if (*p.max_tokens == 0 && !p.echo) refuse("max_tokens", "'max_tokens' must be at least 1 without 'echo'");
  p.logprobs = members.integer("logprobs", 0, limits.max_logprobs).value_or(-1);
  p.best_of = members.integer("best_of", 1, limits.max_choices).value_or(p.n);
  if (p.best_of < p.n) refuse("best_of", "'best_of' must be at least 'n', which is {}", p.n);
  if (p.best_of > p.n && p.stream) refuse("best_of", "'best_of' above 'n' cannot be streamed");
  if (static_cast<int64_t>(p.prompts.size()) * p.best_of > limits.max_prompts * 4)
    refuse("n", "the request asks for {} texts; one may ask for {}", static_cast<int64_t>(p.prompts.size()) * p.best_of,
           limits.max_prompts * 4);
  if (!members.text("suffix").value_or("").empty()) members.unsupported({"suffix"});
  members.done();
  return p;
}

ChatParams parse_chat(std::string_view body, const RequestLimits& limits) {
  using namespace request_file;
  const json object = parse_object(body);
  Members members(object);
  ChatParams p;
  read_common(members, limits, p);
  keep_order(body, p.shape);
  p.messages = read_messages(members);
  const auto old_name = members.integer("max_tokens", 1, INT32_MAX);
  const auto new_name = members.integer("max_completion_tokens", 1, INT32_MAX);
  if (old_name && new_name) refuse("max_tokens", "'max_tokens' and 'max_completion_tokens' are the same; give one");
  p.max_tokens = new_name ? new_name : old_name;
  p.logprobs = members.boolean("logprobs").value_or(false);
  const auto top = members.integer("top_logprobs", 0, limits.max_logprobs);
  if (top && !p.logprobs) refuse("top_logprobs", "'top_logprobs' needs 'logprobs': true");
  p.top_logprobs = top.value_or(0);
  members.unsupported({"tools", "tool_choice", "parallel_tool_calls", "functions", "function_call", "audio",
                       "modalities", "prediction", "reasoning_effort", "verbosity", "store", "metadata", "service_tier",
                       "web_search_options"});
  members.done();
  return p;
}

TokenizeParams parse_tokenize(std::string_view body, const RequestLimits&) {
  using namespace request_file;
  const json object = parse_object(body);
  Members members(object);
  TokenizeParams p;
  p.model = members.text("model").value_or("");
  p.text = members.text("prompt");
  if (!p.text) {
    if (members.any("messages") == nullptr) refuse("prompt", "'prompt' is missing: the text (or 'messages')");
    p.messages = read_messages(members);
  }
  // Nothing is ever added here; a client that wants it so says what is the case.
  if (members.boolean("add_special_tokens").value_or(false)) members.unsupported({"add_special_tokens"});
  p.pieces = members.boolean("return_token_strs").value_or(false);
  members.done();
  return p;
}

DetokenizeParams parse_detokenize(std::string_view body, const RequestLimits& limits) {
  using namespace request_file;
  const json object = parse_object(body);
  Members members(object);
  DetokenizeParams p;
  p.model = members.text("model").value_or("");
  const json* tokens = members.any("tokens");
  if (tokens == nullptr || !is_array(*tokens)) refuse("tokens", "'tokens' must be an array of token ids");
  RequestLimits any_length = limits;
  any_length.max_context = INT64_MAX;
  if (!tokens->empty()) p.tokens = read_ids(*tokens, "tokens", any_length);
  members.done();
  return p;
}

StateParams parse_state(std::string_view body, const RequestLimits& limits, bool save) {
  using namespace request_file;
  const json object = parse_object(body);
  Members members(object);
  StateParams p;
  p.name = members.text("name").value_or("");
  const std::string letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
  if (p.name.empty() || p.name.size() > 64 || p.name.find_first_not_of(letters + ".") != std::string::npos ||
      p.name.front() == '.')
    refuse("name", "'name' must be 1 to 64 letters, digits, '-', '_' or '.', and not start with '.'");
  if (save && members.any("messages") != nullptr) {
    p.messages = read_messages(members);
  } else if (save) {
    const json* prompt = members.any("prompt");
    if (prompt == nullptr) refuse("prompt", "'prompt' (a text or token ids) or 'messages' is missing");
    p.prompt = read_one(*prompt, "prompt", limits);
  }
  members.done();
  return p;
}

}  // namespace rattan::serve
