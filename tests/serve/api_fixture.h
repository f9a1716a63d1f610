// The routes over a fake engine, without sockets.
#pragma once
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fake_backend.h"
#include "rattan/serve/api.h"

namespace rattan::serve {

class ApiTest : public testing::Test {
 protected:
  explicit ApiTest(ApiConfig config = {}) : tokenizer(bytes_tokenizer()), backend(*tokenizer) {
    config.model = "tiny";
    restart(std::move(config));
  }
  ~ApiTest() override {
    backend.release();
    pool.stop();  // what is under way still writes into the log
    std::fclose(log_file);
    std::free(log_text);
  }
  void restart(ApiConfig config, bool ready = true) {
    api = std::make_unique<Api>(std::move(config), pool, log);
    if (ready) api->ready({&backend, tokenizer.get(), ChatTemplate{}, limits()});
  }
  static RequestLimits limits() {
    RequestLimits l;
    l.vocab_size = 257;
    l.max_context = 200;
    return l;
  }
  std::string logged() {
    std::fflush(log_file);
    return {log_text, log_size};
  }

  // As a connection would: the gate first, then the handler.
  std::shared_ptr<FakeReply> start(const std::string& method, const std::string& path, const std::string& body = "",
                                   HttpHeaders headers = {}) {
    auto reply = std::make_shared<FakeReply>();
    HttpRequest request;
    request.id = "req-1";
    request.method = method, request.path = path, request.body = body;
    request.body_given = !body.empty();
    request.headers = std::move(headers);
    if (method == "POST" && request.header("content-type").empty())
      request.headers.emplace_back("content-type", "application/json");
    if (auto refused = api->gate(request)) {
      reply->send(std::move(*refused));
    } else {
      api->handle(std::move(request), reply);
    }
    return reply;
  }
  std::shared_ptr<FakeReply> ask(const std::string& method, const std::string& path, const std::string& body = "",
                                 HttpHeaders headers = {}) {
    auto reply = start(method, path, body, std::move(headers));
    EXPECT_TRUE(reply->wait()) << "no answer to " << method << " " << path << " " << body;
    return reply;
  }
  std::shared_ptr<FakeReply> post(const std::string& path, const std::string& body) { return ask("POST", path, body); }

  std::unique_ptr<Tokenizer> tokenizer;
  char* log_text = nullptr;
  std::size_t log_size = 0;
  std::FILE* log_file = open_memstream(&log_text, &log_size);
  Log log{log_file};
  FakeBackend backend;
  TaskPool pool{2};
  std::unique_ptr<Api> api;
};

}  // namespace rattan::serve
