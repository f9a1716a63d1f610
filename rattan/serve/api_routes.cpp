// What each route does.
#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "rattan/base/error.h"
#include "rattan/base/version.h"
#include "rattan/infer/utf8.h"
#include "rattan/serve/api.h"
#include "rattan/serve/openapi.h"
#include "rattan/serve/page.h"

namespace rattan::serve {
namespace api_routes_file {

// A control token has no text. Its name alone stands for it, as clients that look for the end token expect.
int32_t control_token_named(const Tokenizer& tokenizer, const std::string& text) {
  for (const int32_t id : {tokenizer.eos(), tokenizer.bos()})
    if (id >= 0 && text == tokenizer.piece_name(id)) return id;
  return -1;
}

std::string joined(const std::vector<std::string>& pieces) {
  std::string out;
  for (const std::string& piece : pieces) out += piece;
  return out;
}

}  // namespace api_routes_file

void Api::page(const HttpRequest&, const std::shared_ptr<Reply>& reply) {
  // Nothing is loaded from elsewhere, and no other page may put this one into a frame.
  reply->send({200,
               page_html(),
               "text/html; charset=utf-8",
               {{"Content-Security-Policy",
                 "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
                 "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"},
                {"X-Content-Type-Options", "nosniff"},
                {"Referrer-Policy", "no-referrer"},
                {"Cache-Control", "no-cache"}}});
}

void Api::health(const HttpRequest&, const std::shared_ptr<Reply>& reply) {
  if (draining_) throw ApiError(503, "the server is stopping", "", "stopping", 5);
  model();
  reply->send(json({{"status", "ok"}}));
}

void Api::metrics(const HttpRequest&, const std::shared_ptr<Reply>& reply) {
  std::optional<infer::EngineStats> stats;
  if (ready_) stats = model_.backend->stats();
  reply->send(with_cors(
      {200, metrics_.text(stats ? &*stats : nullptr, connections_()), "text/plain; version=0.0.4; charset=utf-8", {}}));
}

void Api::openapi(const HttpRequest&, const std::shared_ptr<Reply>& reply) {
  reply->send(json(openapi_document(ready_ ? model_.limits : RequestLimits{})));
}

void Api::models(const HttpRequest& request, const std::shared_ptr<Reply>& reply) {
  nlohmann::json entry = {{"id", config_.model},
                          {"object", "model"},
                          {"created", created_},
                          {"owned_by", "rattan"},
                          {"max_model_len", model().limits.max_context}};
  if (request.path == "/v1/models") return reply->send(json({{"object", "list"}, {"data", {entry}}}));
  check_model(request.path.substr(std::string_view("/v1/models/").size()));
  reply->send(json(entry));
}

void Api::completions(const HttpRequest& request, const std::shared_ptr<Reply>& reply) {
  CompletionParams params = parse_completion(request.body, model().limits);
  check_model(params.model);
  const Tokenizer& tokenizer = *model().tokenizer;
  CompletionPlan plan;
  plan.request_id = request.id;
  plan.best_of = params.best_of;
  plan.echo = params.echo;
  plan.logprobs = params.logprobs >= 0;
  for (const Prompt& prompt : params.prompts) {
    const auto* text = std::get_if<std::string>(&prompt);
    std::vector<int32_t> ids = text != nullptr ? tokenizer.encode(*text) : std::get<std::vector<int32_t>>(prompt);
    if (ids.empty()) refuse("prompt", "'prompt' has no token");
    if (params.echo) plan.prompt_texts.push_back(text != nullptr ? *text : infer::valid_utf8(tokenizer.decode(ids)));
    infer::EngineRequest part = engine_request(params, std::move(ids));
    part.top_logprobs = params.logprobs;
    part.prompt_logprobs = params.echo && plan.logprobs;
    plan.parts.push_back(std::move(part));
  }
  run(std::move(plan), params, reply);
}

void Api::chat_completions(const HttpRequest& request, const std::shared_ptr<Reply>& reply) {
  ChatParams params = parse_chat(request.body, model().limits);
  check_model(params.model);
  const ChatTemplate& chat = model().chat;
  params.stop.insert(params.stop.end(), chat.stop.begin(), chat.stop.end());
  const std::vector<std::string> pieces = chat.pieces(params.messages);
  std::vector<int32_t> ids = memory_.encode(pieces, *model().tokenizer);
  if (ids.empty()) refuse("messages", "'messages' hold no text");
  CompletionPlan plan;
  plan.chat = true;
  plan.request_id = request.id;
  plan.best_of = params.n;
  plan.logprobs = params.logprobs;
  plan.prompt_texts.push_back(api_routes_file::joined(pieces));
  plan.parts.push_back(engine_request(params, std::move(ids)));
  plan.parts.front().top_logprobs = params.logprobs ? params.top_logprobs : -1;
  run(std::move(plan), params, reply);
}

void Api::tokenize(const HttpRequest& request, const std::shared_ptr<Reply>& reply) {
  const TokenizeParams params = parse_tokenize(request.body, model().limits);
  check_model(params.model);
  const Tokenizer& tokenizer = *model().tokenizer;
  std::vector<int32_t> ids;
  if (!params.text) {
    ids = tokens_of(params.messages);
  } else if (const int32_t control = api_routes_file::control_token_named(tokenizer, *params.text); control >= 0) {
    ids = {control};
  } else {
    ids = tokenizer.encode(*params.text);
  }
  nlohmann::json answer = {{"count", ids.size()}, {"max_model_len", model().limits.max_context}, {"tokens", ids}};
  if (params.pieces) {
    nlohmann::json& pieces = answer["token_strs"] = nlohmann::json::array();
    for (const int32_t id : ids) pieces.push_back(tokenizer.piece_name(id));
  }
  reply->send(json(answer));
}

void Api::detokenize(const HttpRequest& request, const std::shared_ptr<Reply>& reply) {
  const DetokenizeParams params = parse_detokenize(request.body, model().limits);
  check_model(params.model);
  const Tokenizer& tokenizer = *model().tokenizer;
  const bool control =
      params.tokens.size() == 1 && (params.tokens[0] == tokenizer.eos() || params.tokens[0] == tokenizer.bos());
  // A model may have more ids than its vocabulary; those stand for nothing.
  std::vector<int32_t> known;
  for (const int32_t id : params.tokens)
    if (id < tokenizer.vocab_size()) known.push_back(id);
  const std::string text =
      control ? tokenizer.piece_name(params.tokens[0]) : infer::valid_utf8(tokenizer.decode(known));
  reply->send(json({{"prompt", text}}));
}

void Api::tokenizer_info(const HttpRequest&, const std::shared_ptr<Reply>& reply) {
  const Tokenizer& tokenizer = *model().tokenizer;
  auto name = [&](int32_t id) { return id < 0 ? nlohmann::json() : nlohmann::json(tokenizer.piece_name(id)); };
  reply->send(json({{"tokenizer_class", "rattan-" + tokenizer.kind()},
                    {"vocab_size", tokenizer.vocab_size()},
                    {"fingerprint", tokenizer.fingerprint()},
                    {"bos_token", name(tokenizer.bos())},
                    {"bos_token_id", tokenizer.bos() < 0 ? nlohmann::json() : nlohmann::json(tokenizer.bos())},
                    {"eos_token", name(tokenizer.eos())},
                    {"eos_token_id", tokenizer.eos() < 0 ? nlohmann::json() : nlohmann::json(tokenizer.eos())},
                    {"pad_token", nullptr},
                    {"chat_template", model().chat.jinja()}}));
}

void Api::save_state(const HttpRequest& request, const std::shared_ptr<Reply>& reply) {
  const StateParams params = parse_state(request.body, model().limits, true);
  if (config_.state_folder.empty())
    throw ApiError(403, "this server keeps no states (--state-folder)", "", "states_off");
  std::vector<int32_t> ids;
  if (!params.prompt) {
    ids = tokens_of(params.messages);
  } else if (const auto* text = std::get_if<std::string>(&*params.prompt)) {
    ids = model().tokenizer->encode(*text);
  } else {
    ids = std::get<std::vector<int32_t>>(*params.prompt);
  }
  if (static_cast<int64_t>(ids.size()) > model().limits.max_context)
    throw ApiError(400,
                   fmt::format("there are {} tokens; at most {} can be kept", ids.size(), model().limits.max_context),
                   "prompt", "context_length_exceeded");
  if (ids.size() < 2) throw ApiError(400, "a conversation that is kept has at least 2 tokens", "prompt");
  std::unique_lock lock(state_mutex_, std::try_to_lock);
  if (!lock.owns_lock()) throw ApiError(429, "another state is being saved or restored", "", "busy", 1);
  try {
    model().backend->save(ids, config_.state_folder / (params.name + ".safetensors"));
  } catch (const infer::Busy&) {
    throw ApiError(503, "the server has no room for this now", "", "busy", 1);
  }
  lock.unlock();  // before the client can know, who may ask for the next at once
  reply->send(json({{"name", params.name}, {"tokens", ids.size()}}));
}

void Api::restore_state(const HttpRequest& request, const std::shared_ptr<Reply>& reply) {
  const StateParams params = parse_state(request.body, model().limits, false);
  if (config_.state_folder.empty())
    throw ApiError(403, "this server keeps no states (--state-folder)", "", "states_off");
  const std::filesystem::path file = config_.state_folder / (params.name + ".safetensors");
  std::error_code none;
  if (!std::filesystem::is_regular_file(file, none))
    throw ApiError(404, fmt::format("there is no state '{}'", params.name), "name", "state_not_found");
  std::unique_lock lock(state_mutex_, std::try_to_lock);
  if (!lock.owns_lock()) throw ApiError(429, "another state is being saved or restored", "", "busy", 1);
  std::vector<int32_t> ids;
  try {
    ids = model().backend->restore(file);
  } catch (const infer::Busy&) {
    throw ApiError(503, "the server has no room for this now", "", "busy", 1);
  } catch (const InputError& error) {
    // The message names the file's place, which is not for strangers.
    log_.write("warning", "restore", {{"request", request.id}, {"error", error.what()}});
    throw ApiError(409, fmt::format("the state '{}' is damaged or of another model", params.name), "name",
                   "state_unfit");
  }
  lock.unlock();
  const std::string text = model().tokenizer->decode(ids);
  memory_.remember(text, ids);
  reply->send(json({{"name", params.name}, {"tokens", ids}, {"prompt", infer::valid_utf8(text)}}));
}

}  // namespace rattan::serve
