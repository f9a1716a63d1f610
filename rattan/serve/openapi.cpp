#include "rattan/serve/openapi.h"

#include <algorithm>

#include "rattan/base/version.h"
#include "rattan/serve/json_body.h"

namespace rattan::serve {
namespace openapi_file {

using nlohmann::json;

json text(const char* what) { return {{"type", "string"}, {"description", what}}; }
json flag(const char* what) { return {{"type", "boolean"}, {"description", what}}; }
json number(double low, double high, const char* what) {
  return {{"type", "number"}, {"minimum", low}, {"maximum", high}, {"description", what}};
}
json integer(int64_t low, int64_t high, const char* what) {
  return {{"type", "integer"}, {"minimum", low}, {"maximum", high}, {"description", what}};
}
json array(json items) { return {{"type", "array"}, {"items", std::move(items)}}; }
json ids(const RequestLimits& limits) {
  json list = array(integer(0, std::max<int64_t>(0, limits.vocab_size - 1), "a token id"));
  list["minItems"] = 1;
  return list;
}
// A member that is null counts as one that is not there.
json object(json properties, json required = json::array()) {
  for (auto& [name, schema] : properties.items())
    if (std::find(required.begin(), required.end(), name) == required.end())
      schema = {{"anyOf", {std::move(schema), {{"type", "null"}}}}};
  return {{"type", "object"},
          {"properties", std::move(properties)},
          {"required", std::move(required)},
          {"additionalProperties", false}};
}
json full_text() {
  json t = text("not empty");
  t["minLength"] = 1;
  return t;
}

json messages() {
  json part = object({{"type", {{"const", "text"}}}, {"text", {{"type", "string"}}}}, {"type", "text"});
  json content = {{"anyOf", {{{"type", "string"}}, array(part)}}};
  json roles = {{"enum", {"system", "developer", "user", "assistant"}}};
  json list = array(object({{"role", roles}, {"content", content}}, {"role", "content"}));
  list["minItems"] = 1;
  return list;
}

json response_format() {
  json named = object({{"name", text("")},
                       {"description", text("")},
                       {"strict", flag("has no effect: the schema is always kept to")},
                       {"schema", {{"type", "object"}, {"description", "the keywords that the documentation lists"}}}},
                      {"schema"});
  json pattern = full_text();
  pattern["description"] = "the whole text matches this regular expression";
  auto form = [](const char* type) { return json{{"type", {{"const", type}}}}; };
  json by_schema = form("json_schema"), by_regex = form("regex");
  by_schema["json_schema"] = std::move(named);
  by_regex["pattern"] = std::move(pattern);
  return {{"anyOf",
           {object(form("text"), {"type"}), object(form("json_object"), {"type"}),
            object(std::move(by_schema), {"type", "json_schema"}), object(std::move(by_regex), {"type", "pattern"})}}};
}

json common(const RequestLimits& limits) {
  json stops = array(full_text());
  stops["maxItems"] = limits.max_stops;
  return {
      {"model", text("the name that /v1/models tells; may be left out")},
      {"n", integer(1, limits.max_choices, "texts for each prompt")},
      {"temperature", number(0, 2, "divides the logits; 0 takes the most probable token")},
      {"top_p", {{"type", "number"}, {"exclusiveMinimum", 0}, {"maximum", 1}}},
      {"top_k", integer(-1, INT32_MAX, "sample from the k most probable tokens; 0 or -1: from all")},
      {"min_p", number(0, 1, "sample from tokens at least this many times as probable as the best")},
      {"repetition_penalty", number(0.01, 10, "above 1: tokens already there get less likely")},
      {"presence_penalty", number(-2, 2, "taken from the logits of tokens already made")},
      {"frequency_penalty", number(-2, 2, "the same, for each time that a token was made")},
      {"seed", integer(INT64_MIN, INT64_MAX, "equal requests with equal seeds make equal choices")},
      {"stop", {{"anyOf", {full_text(), stops}}}},
      {"logit_bias", {{"type", "object"}, {"additionalProperties", number(-100, 100, "added to a token's logit")}}},
      {"stream", flag("events as the text is made")},
      {"stream_options", object({{"include_usage", flag("a last event with the usage")}})},
      {"ignore_eos", flag("go on behind an end token")},
      {"return_token_ids", flag("tell the ids of the tokens made")},
      {"response_format", response_format()},
      {"user", text("has no effect")},
  };
}

json completion(const RequestLimits& limits) {
  json p = common(limits);
  json prompts = array({{"anyOf", {full_text(), ids(limits)}}});
  prompts["minItems"] = 1;
  p["prompt"] = {{"anyOf", {full_text(), ids(limits), prompts}}};
  p["max_tokens"] = integer(0, INT32_MAX, "tokens to make at most; 0 with echo");
  p["best_of"] = integer(1, limits.max_choices, "make so many and give the n most probable");
  p["logprobs"] = integer(0, limits.max_logprobs, "tell log-probabilities, with so many alternatives");
  p["echo"] = flag("give the prompt before the text");
  return object(std::move(p), {"prompt"});
}

json chat(const RequestLimits& limits) {
  json p = common(limits);
  p["messages"] = messages();
  p["max_tokens"] = p["max_completion_tokens"] = integer(1, INT32_MAX, "tokens to make at most");
  p["logprobs"] = flag("tell log-probabilities");
  p["top_logprobs"] = integer(0, limits.max_logprobs, "alternatives told with each token");
  return object(std::move(p), {"messages"});
}

json answers(std::initializer_list<const char*> statuses, const char* type = "application/json") {
  json out = {{"200", {{"description", "the answer"}, {"content", {{type, json::object()}}}}}};
  const json refused = {{"description", "refused; the message says why"},
                        {"content", {{"application/json", {{"schema", {{"$ref", "#/components/schemas/Error"}}}}}}}};
  for (const char* status : statuses) out[status] = refused;
  return out;
}

json get(const char* summary, const char* type = "application/json") {
  return {{"get", {{"summary", summary}, {"responses", answers({"400", "401", "404", "503"}, type)}}}};
}
json post(const char* summary, json schema) {
  json responses = answers({"400", "401", "403", "404", "409", "413", "415", "429", "500", "503"});
  return {{"post",
           {{"summary", summary},
            {"requestBody", {{"required", true}, {"content", {{"application/json", {{"schema", std::move(schema)}}}}}}},
            {"responses", std::move(responses)}}}};
}

json completion_post(const char* summary, json schema) {
  json out = post(summary, std::move(schema));
  out["post"]["responses"]["200"]["content"]["text/event-stream"] = json::object();
  return out;
}

}  // namespace openapi_file

nlohmann::json openapi_document(const RequestLimits& limits) {
  using namespace openapi_file;
  const json name = {{"type", "string"}, {"pattern", "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$"}};
  const json prompt = {{"anyOf", {full_text(), ids(limits)}}};
  const json error = object({{"error", object({{"message", {{"type", "string"}}},
                                               {"type", {{"type", "string"}}},
                                               {"param", {{"type", {"string", "null"}}}},
                                               {"code", {{"type", {"string", "null"}}}}},
                                              {"message", "type", "param", "code"})}},
                            {"error"});
  return {
      {"openapi", "3.1.0"},
      {"info", {{"title", "rattan serve"}, {"version", version()}}},
      {"security", {{{"key", json::array()}}, json::object()}},
      {"components",
       {{"schemas", {{"Error", error}}}, {"securitySchemes", {{"key", {{"type", "http"}, {"scheme", "bearer"}}}}}}},
      {"paths",
       {{"/v1/completions", completion_post("continue texts or token ids", completion(limits))},
        {"/v1/chat/completions", completion_post("answer a conversation", chat(limits))},
        {"/v1/models", get("the model that is served")},
        {"/tokenize", post("the tokens of a text or a conversation", object({{"model", text("")},
                                                                             {"prompt", text("")},
                                                                             {"messages", messages()},
                                                                             {"add_special_tokens", {{"const", false}}},
                                                                             {"return_token_strs", flag("")}}))},
        {"/detokenize", post("the text of tokens",
                             object({{"model", text("")}, {"tokens", array(ids(limits)["items"])}}, {"tokens"}))},
        {"/tokenizer_info", get("about the vocabulary")},
        {"/state/save", post("keep a conversation's state in a file",
                             object({{"name", name}, {"prompt", prompt}, {"messages", messages()}}, {"name"}))},
        {"/state/restore", post("bring a kept state back", object({{"name", name}}, {"name"}))},
        {"/health", get("200 when requests are taken")},
        {"/metrics", get("figures for Prometheus", "text/plain")}}},
  };
}

}  // namespace rattan::serve
