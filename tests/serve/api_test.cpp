// What comes back from each route.
#include <unistd.h>

#include "api_fixture.h"

namespace rattan::serve {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

TEST_F(ApiTest, CompletionAnswers) {
  const json a = post("/v1/completions", R"({"model":"tiny","prompt":"abc","max_tokens":5})")->json();
  EXPECT_EQ(a["object"], "text_completion");
  EXPECT_EQ(a["model"], "tiny");
  EXPECT_EQ(a["choices"][0]["text"], "abcab");
  EXPECT_EQ(a["choices"][0]["finish_reason"], "length");
  EXPECT_TRUE(a["choices"][0]["logprobs"].is_null());
  EXPECT_EQ(a["usage"]["prompt_tokens"], 3);
  EXPECT_EQ(a["usage"]["completion_tokens"], 5);
  EXPECT_EQ(a["usage"]["prompt_tokens_details"]["cached_tokens"], 1);
  EXPECT_EQ(a["usage"]["state_bytes"], 80);
}

TEST_F(ApiTest, ManyPromptsAndChoicesKeepTheirOrder) {
  const json a = post("/v1/completions", R"({"prompt":["ab",[99],"d"],"max_tokens":2,"n":2})")->json();
  ASSERT_EQ(a["choices"].size(), 6u);
  const char* texts[] = {"ab", "ab", "cc", "cc", "dd", "dd"};
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(a["choices"][i]["index"], i);
    EXPECT_EQ(a["choices"][i]["text"], texts[i]);
  }
  EXPECT_EQ(a["usage"]["completion_tokens"], 12);
}

// The fake's choice c has the log-probability -0.5 - c a token.
TEST_F(ApiTest, BestOfGivesTheMostProbable) {
  const json a = post("/v1/completions", R"({"prompt":"ab","max_tokens":2,"n":1,"best_of":3,"logprobs":0})")->json();
  ASSERT_EQ(a["choices"].size(), 1u);
  EXPECT_EQ(a["choices"][0]["logprobs"]["token_logprobs"], json({-0.5, -0.5}));
  EXPECT_EQ(a["usage"]["completion_tokens"], 6);
}

// What lm-eval asks for: the log-probabilities of the prompt, and one token more.
TEST_F(ApiTest, EchoWithLogprobs) {
  const json a = post("/v1/completions", R"({"prompt":[97,195,164],"max_tokens":1,"echo":true,"logprobs":1})")->json();
  EXPECT_EQ(a["choices"][0]["text"], "a\u00e4a");
  const json l = a["choices"][0]["logprobs"];
  EXPECT_EQ(l["tokens"], json({"a", "bytes:\\xc3", "bytes:\\xa4", "a"}));
  EXPECT_EQ(l["token_logprobs"], json({nullptr, -0.5, -0.5, -0.5}));
  EXPECT_EQ(l["text_offset"], json({0, 1, 2, 2}));
  EXPECT_TRUE(l["top_logprobs"][0].is_null());
  EXPECT_EQ(l["top_logprobs"][1], json({{"bytes:\\xc3", -0.5}}));

  const json none = post("/v1/completions", R"({"prompt":"ab","max_tokens":0,"echo":true,"logprobs":2})")->json();
  EXPECT_EQ(none["choices"][0]["text"], "ab");
  EXPECT_EQ(none["choices"][0]["logprobs"]["tokens"], json({"a", "b"}));
  EXPECT_EQ(none["choices"][0]["logprobs"]["top_logprobs"][1], json({{"b", -0.5}, {"c", -1.0}}));
}

TEST_F(ApiTest, CompletionStreams) {
  const auto reply = post("/v1/completions", R"({"prompt":"ab","max_tokens":3,"n":2,"echo":true,"stream":true,
                                                 "stream_options":{"include_usage":true}})");
  EXPECT_EQ(reply->response.type, "text/event-stream");
  std::string text[2];
  json usage;
  int finished = 0;
  for (const json& event : reply->events()) {
    ASSERT_TRUE(event.is_object()) << event;
    if (event["choices"].empty()) {
      usage = event["usage"];
      continue;
    }
    EXPECT_TRUE(event["usage"].is_null());
    const json& choice = event["choices"][0];
    text[choice["index"].get<int>()] += choice["text"].get<std::string>();
    finished += choice["finish_reason"] == "length" ? 1 : 0;
  }
  EXPECT_EQ(text[0], "ababa");
  EXPECT_EQ(text[1], "ababa");
  EXPECT_EQ(finished, 2);
  EXPECT_EQ(usage["completion_tokens"], 6);
}

TEST_F(ApiTest, TokensThatComeFastAreSentTogether) {
  ApiConfig config;
  config.model = "tiny";
  config.stream_seconds = 1000;
  restart(config);
  const auto events = post("/v1/completions", R"({"prompt":"abc","max_tokens":6,"stream":true,"logprobs":1,
                                                 "return_token_ids":true})")
                          ->events();
  ASSERT_EQ(events.size(), 3u) << "the first token at once, the others together, the end";
  const json first = events[0]["choices"][0], others = events[1]["choices"][0], end = events[2]["choices"][0];
  EXPECT_EQ(first["text"], "a");
  EXPECT_EQ(others["text"], "bcabc");
  EXPECT_EQ(others["token_ids"], json({98, 99, 97, 98, 99}));
  EXPECT_EQ(others["logprobs"]["tokens"], json({"b", "c", "a", "b", "c"}));
  EXPECT_EQ(others["logprobs"]["text_offset"], json({1, 2, 3, 4, 5}));
  EXPECT_EQ(end["finish_reason"], "length");
}

TEST_F(ApiTest, ChatAnswersAndStreams) {
  const char* body = R"({"messages":[{"role":"system","content":"S"},{"role":"user","content":"Hi"}],"max_tokens":4,
                         "logprobs":true,"top_logprobs":2)";
  const json a = post("/v1/chat/completions", std::string(body) + "}")->json();
  EXPECT_EQ(a["object"], "chat.completion");
  EXPECT_EQ(a["choices"][0]["message"]["role"], "assistant");
  EXPECT_EQ(a["choices"][0]["message"]["content"], "S\n\nU");
  EXPECT_EQ(a["choices"][0]["logprobs"]["content"][0]["token"], "S");
  EXPECT_EQ(a["choices"][0]["logprobs"]["content"][0]["bytes"], json({83}));
  EXPECT_EQ(a["choices"][0]["logprobs"]["content"][0]["top_logprobs"].size(), 2u);
  EXPECT_EQ(tokenizer->decode(backend.requests[0].prompt), "S\n\nUser:\nHi\n\nAssistant:\n");
  EXPECT_THAT(backend.requests[0].stop, testing::ElementsAre("\n\nUser:"));

  const auto events = post("/v1/chat/completions", std::string(body) + R"(,"stream":true})")->events();
  EXPECT_EQ(events.front()["choices"][0]["delta"], json({{"role", "assistant"}, {"content", ""}}));
  std::string text;
  for (const json& event : events) text += event["choices"][0]["delta"].value("content", "");
  EXPECT_EQ(text, "S\n\nU");
  EXPECT_EQ(events.back()["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(events.back()["choices"][0]["delta"], json::object());
}

// The second turn's prompt starts with the very tokens of the first turn and its answer.
TEST_F(ApiTest, ChatKeepsTheTokensOfItsPast) {
  const json first =
      post("/v1/chat/completions", R"({"messages":[{"role":"user","content":"x"}],"max_tokens":5})")->json();
  const std::string said = first["choices"][0]["message"]["content"];
  const json again = {{"messages",
                       {{{"role", "user"}, {"content", "x"}},
                        {{"role", "assistant"}, {"content", said}},
                        {{"role", "user"}, {"content", "y"}}}},
                      {"max_tokens", 1}};
  post("/v1/chat/completions", again.dump());
  const std::string prompt = tokenizer->decode(backend.requests[1].prompt);
  EXPECT_EQ(prompt, "User:\nx\n\nAssistant:\n" + said + "\n\nUser:\ny\n\nAssistant:\n");
}

TEST_F(ApiTest, SettingsReachTheEngine) {
  post("/v1/completions", R"({"prompt":"a","max_tokens":1,"temperature":0.3,"top_p":0.5,"seed":9,"stop":"q",
                              "logit_bias":{"3":2},"frequency_penalty":1.5,"logprobs":2})");
  const infer::EngineRequest& r = backend.requests.at(0);
  EXPECT_EQ(r.sampling.temperature, 0.3);
  EXPECT_EQ(r.sampling.top_p, 0.5);
  EXPECT_EQ(r.sampling.frequency_penalty, 1.5);
  EXPECT_EQ(r.seed, 9u);
  EXPECT_EQ(r.logit_bias.at(3), 2);
  EXPECT_EQ(r.top_logprobs, 2);
  EXPECT_THAT(r.end_tokens, testing::ElementsAre(256));
  post("/v1/completions", R"({"prompt":"a","max_tokens":1,"ignore_eos":true})");
  post("/v1/completions", R"({"prompt":"a","max_tokens":1})");
  EXPECT_TRUE(backend.requests.at(1).end_tokens.empty());
  EXPECT_NE(backend.requests.at(1).seed, backend.requests.at(2).seed) << "without a seed, choices must differ";
}

TEST_F(ApiTest, Refusals) {
  struct Case {
    const char *method, *path, *body;
    int status;
    const char *type, *code;
  };
  const std::string long_prompt = R"({"prompt":")" + std::string(200, 'a') + R"(","max_tokens":1})";
  const Case cases[] = {
      {"POST", "/v1/completions", R"({"prompt":"a","model":"gpt"})", 404, "not_found_error", "model_not_found"},
      {"POST", "/v1/completions", long_prompt.c_str(), 400, "invalid_request_error", "context_length_exceeded"},
      {"POST", "/v1/completions", R"({"prompt":"a","max_tokens":200})", 400, "invalid_request_error",
       "context_length_exceeded"},
      {"POST", "/v1/completions", R"({"prompt":"a","response_format":{"type":"json_object"}})", 400,
       "invalid_request_error", "unsupported_parameter"},
      {"POST", "/v1/embeddings", "{}", 404, "not_found_error", nullptr},
      {"GET", "/v1/completions", "", 405, "invalid_request_error", nullptr},
      {"DELETE", "/", "", 405, "invalid_request_error", nullptr},
      {"OPTIONS", "/v1/completions", "", 405, "invalid_request_error", nullptr},
      {"GET", "/v1/models/other", "", 404, "not_found_error", "model_not_found"},
      {"POST", "/state/save", R"({"name":"a","prompt":"b"})", 403, "permission_error", "states_off"},
  };
  for (const Case& c : cases) {
    const auto reply = ask(c.method, c.path, c.body);
    EXPECT_EQ(reply->response.status, c.status) << c.method << " " << c.path;
    const json error = reply->json()["error"];
    EXPECT_EQ(error["type"], c.type);
    EXPECT_EQ(error["code"], c.code == nullptr ? json() : json(c.code));
  }
  const auto form = ask("POST", "/v1/completions", R"({"prompt":"a"})", {{"content-type", "text/plain"}});
  EXPECT_EQ(form->response.status, 415);
}

TEST_F(ApiTest, AFullQueueSaysWhenToComeBack) {
  backend.busy = true;
  const auto reply = post("/v1/completions", R"({"prompt":"a"})");
  EXPECT_EQ(reply->response.status, 429);
  EXPECT_THAT(reply->response.headers, testing::Contains(std::pair<std::string, std::string>("Retry-After", "1")));
}

TEST_F(ApiTest, FailuresOfTheEngineStayInside) {
  backend.failing = true;
  for (const char* more : {"", R"(,"stream":true)"}) {
    const auto reply = post("/v1/completions", fmt::format(R"({{"prompt":"a"{}}})", more));
    EXPECT_EQ(reply->response.status, 500);
    EXPECT_THAT(reply->response.body, Not(HasSubstr("secret")));
    EXPECT_EQ(reply->json()["error"]["type"], "server_error");
  }
  EXPECT_THAT(logged(), HasSubstr("a secret of /srv/model"));
}

TEST_F(ApiTest, ALeavingClientCancels) {
  backend.hold();
  const auto reply = start("POST", "/v1/completions", R"({"prompt":["a","b"],"stream":true})");
  while (backend.stats(), pool.waiting() > 0) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  reply->leave();
  EXPECT_TRUE(backend.wait_cancelled(2));
  EXPECT_FALSE(reply->done());
}

TEST_F(ApiTest, LateAnswersAreGivenUp) {
  ApiConfig config;
  config.model = "tiny";
  config.request_seconds = 0.05;
  restart(config);
  backend.hold();
  const auto reply = post("/v1/completions", R"({"prompt":"a"})");
  EXPECT_EQ(reply->response.status, 503);
  EXPECT_EQ(reply->json()["error"]["code"], "timeout");
  EXPECT_TRUE(backend.wait_cancelled(1));
}

TEST_F(ApiTest, NotReadyThenReadyThenStopping) {
  restart({}, false);
  EXPECT_EQ(ask("GET", "/health")->response.status, 503);
  EXPECT_EQ(post("/v1/completions", R"({"prompt":"a"})")->response.status, 503);
  EXPECT_EQ(ask("GET", "/metrics")->response.status, 200);
  restart({});
  EXPECT_EQ(ask("GET", "/health")->response.status, 200);
  api->drain();
  EXPECT_EQ(ask("GET", "/health")->response.status, 503);
  const auto reply = post("/v1/completions", R"({"prompt":"a"})");
  EXPECT_EQ(reply->response.status, 503);
  EXPECT_EQ(reply->response.headers.at(0).first, "Retry-After");
}

TEST_F(ApiTest, Keys) {
  ApiConfig config;
  config.keys = ApiKeys({"0123456789abcdef", "another-key-that-fits"});
  restart(config);
  EXPECT_EQ(ask("GET", "/v1/models")->response.status, 401);
  EXPECT_EQ(ask("GET", "/v1/models", "", {{"authorization", "Bearer 0123456789abcdeg"}})->response.status, 401);
  EXPECT_EQ(ask("GET", "/v1/models", "", {{"authorization", "Bearer 0123456789abcdef0"}})->response.status, 401);
  EXPECT_EQ(ask("GET", "/v1/models", "", {{"authorization", "Bearer "}})->response.status, 401);
  EXPECT_EQ(ask("GET", "/v1/models", "", {{"authorization", "Bearer another-key-that-fits"}})->response.status, 200);
  EXPECT_EQ(ask("GET", "/v1/models", "", {{"x-api-key", "0123456789abcdef"}})->response.status, 200);
  EXPECT_EQ(ask("GET", "/metrics")->response.status, 401);
  for (const char* open : {"/", "/health", "/openapi.json"}) EXPECT_EQ(ask("GET", open)->response.status, 200) << open;
}

TEST_F(ApiTest, CorsIsOffUnlessAskedFor) {
  EXPECT_THAT(ask("GET", "/health")->response.headers, testing::IsEmpty());
  ApiConfig config;
  config.cors_origin = "https://chat.example";
  restart(config);
  EXPECT_THAT(ask("GET", "/health")->response.headers, testing::Contains(std::pair<std::string, std::string>(
                                                           "Access-Control-Allow-Origin", "https://chat.example")));
  EXPECT_EQ(ask("OPTIONS", "/v1/completions")->response.status, 204);
}

TEST_F(ApiTest, Tokens) {
  EXPECT_EQ(post("/tokenize", R"({"prompt":"ab","add_special_tokens":false})")->json()["tokens"], json({97, 98}));
  EXPECT_EQ(post("/tokenize", R"({"prompt":""})")->json()["count"], 0);
  const json info = ask("GET", "/tokenizer_info")->json();
  EXPECT_EQ(info["eos_token_id"], 256);
  // Clients find the end token by its name, and its name by the token.
  const std::string eos = info["eos_token"];
  EXPECT_EQ(post("/tokenize", json({{"prompt", eos}}).dump())->json()["tokens"], json({256}));
  EXPECT_EQ(post("/detokenize", R"({"tokens":[256]})")->json()["prompt"], eos);
  EXPECT_EQ(post("/detokenize", R"({"tokens":[97,195,256,98]})")->json()["prompt"], "a\ufffdb");
  EXPECT_EQ(post("/detokenize", R"({"tokens":[]})")->json()["prompt"], "");
  const json chat = post("/tokenize", R"({"messages":[{"role":"user","content":"a"}]})")->json();
  EXPECT_EQ(tokenizer->decode(chat["tokens"].get<std::vector<int32_t>>()), "User:\na\n\nAssistant:\n");
}

TEST_F(ApiTest, States) {
  ApiConfig config;
  config.model = "tiny";
  config.state_folder = std::filesystem::path(testing::TempDir()) / ("rattan-api-" + std::to_string(getpid()));
  std::filesystem::create_directories(config.state_folder);
  restart(config);
  EXPECT_EQ(post("/state/save", R"({"name":"one","prompt":"hello"})")->json(), json({{"name", "one"}, {"tokens", 5}}));
  EXPECT_EQ(post("/state/restore", R"({"name":"one"})")->json()["prompt"], "hello");
  EXPECT_EQ(post("/state/restore", R"({"name":"two"})")->response.status, 404);
  EXPECT_EQ(post("/state/save", R"({"name":"one","prompt":"h"})")->response.status, 400);
  write_file(config.state_folder / "bad.safetensors", "damaged");
  const auto bad = post("/state/restore", R"({"name":"bad"})");
  EXPECT_EQ(bad->response.status, 409);
  EXPECT_THAT(bad->response.body, Not(HasSubstr(config.state_folder.string())));
  std::filesystem::remove_all(config.state_folder);
}

TEST_F(ApiTest, MetricsAreWellFormed) {
  api->record({"req-1", "::1", "GET", "/health", 200, true, 10, 0.1});
  api->record({"req-2", "::1", "GET", "/a\"b", 404, true, 10, 0.1});
  const std::string text = ask("GET", "/metrics")->response.body;
  EXPECT_THAT(text, HasSubstr("rattan_http_answers_total{route=\"/health\",status=\"200\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("rattan_http_answers_total{route=\"other\",status=\"404\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("rattan_cache_misses_total{reason=\"no \\\"prefix\\\"\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("rattan_time_to_first_token_seconds_bucket{le=\"1\"} 5\n"));
  EXPECT_THAT(text, HasSubstr("rattan_time_to_first_token_seconds_bucket{le=\"+Inf\"} 6\n"));
  EXPECT_THAT(text, HasSubstr("rattan_time_to_first_token_seconds_count 6\n"));
}

TEST_F(ApiTest, LogsHoldNoText) {
  post("/v1/completions", R"({"prompt":"a private matter","max_tokens":3})");
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_THAT(logged(), HasSubstr("\"generated\":3"));
  EXPECT_THAT(logged(), Not(HasSubstr("private")));
  ApiConfig config;
  config.log_prompts = true;
  restart(config);
  post("/v1/completions", R"({"prompt":"a private matter","max_tokens":3})");
  EXPECT_THAT(logged(), HasSubstr("private"));
}

TEST_F(ApiTest, OpenApiNamesEveryRoute) {
  const json document = ask("GET", "/openapi.json")->json();
  for (const char* path : {"/v1/completions", "/v1/chat/completions", "/v1/models", "/tokenize", "/detokenize",
                           "/tokenizer_info", "/state/save", "/state/restore", "/health", "/metrics"})
    EXPECT_TRUE(document["paths"].contains(path)) << path;
}

TEST_F(ApiTest, ThePageLoadsNothingFromElsewhere) {
  const auto reply = ask("GET", "/");
  EXPECT_EQ(reply->response.type, "text/html; charset=utf-8");
  std::string page = reply->response.body;
  // The one address in it names SVG.
  for (std::size_t at; (at = page.find("http://www.w3.org/2000/svg")) != std::string::npos;) page.erase(at, 26);
  EXPECT_THAT(page, Not(HasSubstr("http://")));
  EXPECT_THAT(page, Not(HasSubstr("https://")));
}

}  // namespace rattan::serve
