#include "rattan/serve/api.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>
#include <random>

#include "rattan/base/error.h"

namespace rattan::serve {
namespace api_file {

std::string dump(const nlohmann::json& value) {
  return value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// "Bearer KEY" or, as some clients send it, the header X-Api-Key.
std::string_view key_of(const HttpRequest& request) {
  const std::string_view value = request.header("authorization");
  if (value.size() > 7 && (value.starts_with("Bearer ") || value.starts_with("bearer "))) return value.substr(7);
  return request.header("x-api-key");
}

bool is_json(std::string_view type) {
  type = type.substr(0, type.find(';'));
  while (!type.empty() && type.back() == ' ') type.remove_suffix(1);
  constexpr std::string_view want = "application/json";
  if (type.size() != want.size()) return false;
  for (std::size_t i = 0; i < type.size(); ++i)
    if (std::tolower(static_cast<unsigned char>(type[i])) != want[i]) return false;
  return true;
}

}  // namespace api_file

struct Api::Route {
  const char* method;
  const char* path;
  void (Api::*answer)(const HttpRequest&, const std::shared_ptr<Reply>&);
  bool open = false;  // without a key
  bool work = false;  // asks the model for something: not while the server stops
};

const std::vector<Api::Route>& Api::routes() {
  static const std::vector<Route> table = {
      {"GET", "/", &Api::page, true},
      {"GET", "/health", &Api::health, true},
      {"GET", "/openapi.json", &Api::openapi, true},
      {"GET", "/metrics", &Api::metrics},
      {"GET", "/v1/models", &Api::models},
      {"POST", "/v1/completions", &Api::completions, false, true},
      {"POST", "/v1/chat/completions", &Api::chat_completions, false, true},
      {"POST", "/tokenize", &Api::tokenize},
      {"POST", "/detokenize", &Api::detokenize},
      {"GET", "/tokenizer_info", &Api::tokenizer_info},
      {"POST", "/state/save", &Api::save_state, false, true},
      {"POST", "/state/restore", &Api::restore_state, false, true},
  };
  return table;
}

const Api::Route* Api::route_of(const std::string& path) {
  if (path.starts_with("/v1/models/")) return route_of("/v1/models");
  for (const Route& route : routes())
    if (path == route.path) return &route;
  return nullptr;
}

Api::Api(ApiConfig config, TaskPool& pool, Log& log)
    : config_(std::move(config)),
      pool_(pool),
      log_(log),
      created_(std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
                   .count()),
      memory_(static_cast<std::size_t>(config_.remembered_tokens)) {}

Api::~Api() = default;

void Api::ready(ServedModel model) {
  model_ = std::move(model);
  ready_ = true;
}

const ServedModel& Api::model() const {
  if (!ready_) throw ApiError(503, "the model is still being loaded", "", "loading", 1);
  return model_;
}

void Api::check_model(const std::string& name) const {
  // Absent is fine: there is only one.
  if (name.empty() || name == config_.model) return;
  throw ApiError(404, fmt::format("there is no model of that name; this server has '{}'", config_.model), "model",
                 "model_not_found");
}

HttpResponse Api::with_cors(HttpResponse response) const {
  if (config_.cors_origin.empty()) return response;
  response.headers.emplace_back("Access-Control-Allow-Origin", config_.cors_origin);
  response.headers.emplace_back("Access-Control-Expose-Headers", "X-Request-Id");
  if (config_.cors_origin != "*") response.headers.emplace_back("Vary", "Origin");
  return response;
}

HttpResponse Api::respond(const ApiError& error) const {
  HttpResponse response{error.status, api_file::dump(error.json()), "application/json", {}};
  if (error.retry_after > 0) response.headers.emplace_back("Retry-After", std::to_string(error.retry_after));
  if (error.status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return with_cors(std::move(response));
}

HttpResponse Api::json(const nlohmann::json& document) const {
  return with_cors({200, api_file::dump(document), "application/json", {}});
}

HttpResponse Api::refusal(int status, const std::string& message) const { return respond(ApiError(status, message)); }

std::optional<HttpResponse> Api::gate(const HttpRequest& request) {
  const Route* route = route_of(request.path);
  if (route == nullptr) return respond(ApiError(404, "there is no such route; /openapi.json lists them"));
  if (request.method == "OPTIONS" && !config_.cors_origin.empty()) {
    HttpResponse response = with_cors({204, "", "", {}});
    response.headers.emplace_back("Access-Control-Allow-Methods", std::string(route->method) + ", OPTIONS");
    response.headers.emplace_back("Access-Control-Allow-Headers", "Authorization, Content-Type, X-Api-Key");
    response.headers.emplace_back("Access-Control-Max-Age", "600");
    return response;
  }
  const std::string method = route->method;
  if (request.method != method && !(method == "GET" && request.method == "HEAD")) {
    HttpResponse response = respond(ApiError(405, fmt::format("this route takes {}", method)));
    response.headers.emplace_back("Allow", method == "GET" ? "GET, HEAD" : method);
    return response;
  }
  if (!route->open && config_.keys.required() && !config_.keys.admits(api_file::key_of(request)))
    return respond(ApiError(401, "this server wants an API key: Authorization: Bearer KEY", "", "invalid_api_key"));
  if (route->work && draining_) return respond(ApiError(503, "the server is stopping", "", "stopping", 5));
  if (method == "GET" && request.body_given) return respond(ApiError(400, "this route takes no body"));
  // A page of another site can send text without asking first, but not this type: so it cannot use a local server.
  if (method == "POST" && !api_file::is_json(request.header("content-type")))
    return respond(ApiError(415, "the header Content-Type must be application/json"));
  return std::nullopt;
}

void Api::handle(HttpRequest request, std::shared_ptr<Reply> reply) {
  const Route* route = route_of(request.path);
  if (route == nullptr) return reply->send(respond(ApiError(404, "there is no such route")));
  // Questions after the server's health are answered however much else there is to do.
  if (route->open) return answer(*route, request, reply);
  if (pool_.waiting() > config_.max_tasks)
    return reply->send(respond(ApiError(503, "the server is too busy; try again in a moment", "", "overloaded", 1)));
  pool_.post([this, route, request = std::move(request), reply = std::move(reply)] { answer(*route, request, reply); });
}

void Api::answer(const Route& route, const HttpRequest& request, const std::shared_ptr<Reply>& reply) {
  try {
    if (config_.log_prompts && !request.body.empty())
      log_.write("info", "body", {{"request", request.id}, {"body", request.body}});
    (this->*route.answer)(request, reply);
  } catch (const ApiError& error) {
    reply->send(respond(error));
  } catch (const std::exception& error) {
    log_.write("error", "request", {{"request", request.id}, {"error", error.what()}});
    reply->send(respond(ApiError(
        500, fmt::format("the server failed while it worked on this request; its log says why under {}", request.id))));
  }
}

void Api::record(const HttpRecord& record) {
  const Route* route = route_of(record.path);
  if (record.status != 0) metrics_.count(route == nullptr ? "other" : route->path, record.status);
  if (!record.complete) metrics_.aborted();
  log_.write("info", "answer",
             {{"request", record.id},
              {"peer", record.peer},
              {"method", record.method},
              {"route", route == nullptr ? "other" : route->path},
              {"status", record.status},
              {"complete", record.complete},
              {"bytes", record.bytes},
              {"seconds", std::round(record.seconds * 1e4) / 1e4}});
}

std::vector<int32_t> Api::tokens_of(const std::vector<Message>& messages) const {
  return memory_.encode(model().chat.pieces(messages), *model().tokenizer);
}

infer::EngineRequest Api::engine_request(const CommonParams& params, std::vector<int32_t> prompt) const {
  const RequestLimits& limits = model().limits;
  const auto size = static_cast<int64_t>(prompt.size());
  const int64_t want = params.max_tokens.value_or(std::max<int64_t>(1, limits.max_context - size));
  if (size + want > limits.max_context)
    throw ApiError(400,
                   fmt::format("the prompt has {} tokens and 'max_tokens' is {}; together they may be {}", size, want,
                               limits.max_context),
                   size >= limits.max_context ? "prompt" : "max_tokens", "context_length_exceeded");
  infer::EngineRequest request;
  request.prompt = std::move(prompt);
  request.max_tokens = want;
  request.sampling = params.sampling;
  request.logit_bias = params.logit_bias;
  request.stop = params.stop;
  if (!params.ignore_end && model().tokenizer->eos() >= 0) request.end_tokens = {model().tokenizer->eos()};
  return request;
}

// What is the same for both kinds of completion; `plan.parts` have their prompts.
void Api::run(CompletionPlan plan, const CommonParams& params, const std::shared_ptr<Reply>& reply) {
  const uint64_t seed =
      params.seed ? *params.seed : std::random_device{}() * (uint64_t{1} << 32) + std::random_device{}();
  std::shared_ptr<const infer::Grammar> grammar;
  if (params.shape.kind != Shape::Kind::free) {
    try {
      grammar = model().backend->grammar(params.shape);
    } catch (const InputError& error) {
      throw ApiError(400, error.what(), "response_format");
    }
    if (grammar == nullptr)
      throw ApiError(400, "'response_format' is not supported by this server, other than text", "response_format",
                     "unsupported_parameter");
  }
  for (infer::EngineRequest& part : plan.parts) {
    part.choices = plan.best_of;
    part.seed = seed;
    part.grammar = grammar;
  }
  plan.model = config_.model;
  plan.n = params.n;
  plan.stream = params.stream;
  plan.include_usage = params.include_usage;
  plan.token_ids = params.token_ids;
  plan.seconds = config_.request_seconds;
  plan.stream_seconds = config_.stream_seconds;
  const CompletionHost host{*model().backend, *model().tokenizer, pool_, memory_, log_};
  std::make_shared<Completion>(host, std::move(plan), reply)->start();
}

}  // namespace rattan::serve
