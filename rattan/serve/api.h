// The routes of the server: who may ask what, and what comes back. Knows no socket.
#pragma once
#include <atomic>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "rattan/serve/api_error.h"
#include "rattan/serve/api_keys.h"
#include "rattan/serve/chat_template.h"
#include "rattan/serve/completion.h"
#include "rattan/serve/metrics.h"

namespace rattan::serve {

struct ApiConfig {
  std::string model = "model";  // the name under which clients ask for it
  ApiKeys keys;
  std::string cors_origin;             // that may call from its pages; "": none, "*": any
  std::filesystem::path state_folder;  // of /state/save and /state/restore; empty: they are off
  bool log_prompts = false;
  double request_seconds = 600;
  int64_t remembered_tokens = 4 << 20;  // of conversations: TokenMemory
  double stream_seconds = 0;            // CompletionPlan
  std::size_t max_tasks = 1024;         // requests that wait to be parsed
};

// The model behind the routes, once it is loaded.
struct ServedModel {
  Backend* backend = nullptr;
  const Tokenizer* tokenizer = nullptr;
  ChatTemplate chat;
  RequestLimits limits;
};

class Api {
 public:
  Api(ApiConfig config, TaskPool& pool, Log& log);
  ~Api();

  void ready(ServedModel model);
  void drain() { draining_ = true; }  // new requests are sent away
  void connections(std::function<int64_t()> count) { connections_ = std::move(count); }

  // For HttpConfig.
  std::optional<HttpResponse> gate(const HttpRequest& request);
  void handle(HttpRequest request, std::shared_ptr<Reply> reply);
  HttpResponse refusal(int status, const std::string& message) const;
  void record(const HttpRecord& record);

 private:
  struct Route;
  static const std::vector<Route>& routes();
  static const Route* route_of(const std::string& path);

  HttpResponse respond(const ApiError& error) const;
  HttpResponse json(const nlohmann::json& document) const;
  HttpResponse with_cors(HttpResponse response) const;
  void answer(const Route& route, const HttpRequest& request, const std::shared_ptr<Reply>& reply);
  const ServedModel& model() const;  // ApiError 503 while there is none
  void check_model(const std::string& name) const;
  std::vector<int32_t> tokens_of(const std::vector<Message>& messages) const;
  infer::EngineRequest engine_request(const CommonParams& params, std::vector<int32_t> prompt) const;
  void run(CompletionPlan plan, const CommonParams& params, const std::shared_ptr<Reply>& reply);

  // One a route.
  void page(const HttpRequest&, const std::shared_ptr<Reply>&);
  void health(const HttpRequest&, const std::shared_ptr<Reply>&);
  void metrics(const HttpRequest&, const std::shared_ptr<Reply>&);
  void openapi(const HttpRequest&, const std::shared_ptr<Reply>&);
  void models(const HttpRequest&, const std::shared_ptr<Reply>&);
  void completions(const HttpRequest&, const std::shared_ptr<Reply>&);
  void chat_completions(const HttpRequest&, const std::shared_ptr<Reply>&);
  void tokenize(const HttpRequest&, const std::shared_ptr<Reply>&);
  void detokenize(const HttpRequest&, const std::shared_ptr<Reply>&);
  void tokenizer_info(const HttpRequest&, const std::shared_ptr<Reply>&);
  void save_state(const HttpRequest&, const std::shared_ptr<Reply>&);
  void restore_state(const HttpRequest&, const std::shared_ptr<Reply>&);

  const ApiConfig config_;
  TaskPool& pool_;
  Log& log_;
  const int64_t created_;
  std::function<int64_t()> connections_ = [] { return 0; };
  Metrics metrics_;
  mutable TokenMemory memory_;
  ServedModel model_;
  std::atomic<bool> ready_{false}, draining_{false};
  std::mutex state_mutex_;  // one conversation is saved or restored at a time
};

}  // namespace rattan::serve
