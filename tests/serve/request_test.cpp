// Bodies become requests or errors that name what is wrong.
#include "rattan/serve/request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "rattan/serve/api_error.h"
#include "rattan/serve/json_body.h"

namespace rattan::serve {

using testing::ElementsAre;
using testing::HasSubstr;

RequestLimits test_limits() {
  RequestLimits limits;
  limits.vocab_size = 257;
  limits.max_context = 100;
  return limits;
}

template <class F>
ApiError refusal_of(F parse) {
  try {
    parse();
  } catch (const ApiError& error) {
    return error;
  }
  return ApiError(0, "it was taken");
}

ApiError completion_error(const std::string& body) {
  return refusal_of([&] { parse_completion(body, test_limits()); });
}
ApiError chat_error(const std::string& body) {
  return refusal_of([&] { parse_chat(body, test_limits()); });
}

TEST(Request, CompletionWithEverything) {
  const CompletionParams p = parse_completion(
      R"({"model":"m","prompt":["a",[1,2]],"max_tokens":7,"temperature":0.5,"top_p":0.9,"top_k":5,"min_p":0.1,
          "n":2,"best_of":3,"logprobs":4,"echo":true,"stop":["x","y"],"seed":-3,"logit_bias":{"5":-100,"6":1.5},
          "presence_penalty":1,"frequency_penalty":-1,"repetition_penalty":1.2,"user":"u","suffix":null,
          "ignore_eos":true,"response_format":{"type":"text"}})",
      test_limits());
  EXPECT_EQ(p.model, "m");
  ASSERT_EQ(p.prompts.size(), 2u);
  EXPECT_EQ(std::get<std::string>(p.prompts[0]), "a");
  EXPECT_THAT(std::get<std::vector<int32_t>>(p.prompts[1]), ElementsAre(1, 2));
  EXPECT_EQ(p.max_tokens, 7);
  EXPECT_EQ(p.sampling.temperature, 0.5);
  EXPECT_EQ(p.sampling.top_k, 5);
  EXPECT_EQ(p.sampling.presence_penalty, 1);
  EXPECT_EQ(p.sampling.frequency_penalty, -1);
  EXPECT_EQ(p.n, 2);
  EXPECT_EQ(p.best_of, 3);
  EXPECT_EQ(p.logprobs, 4);
  EXPECT_TRUE(p.echo && p.ignore_end && !p.stream);
  EXPECT_THAT(p.stop, ElementsAre("x", "y"));
  EXPECT_EQ(p.seed, static_cast<uint64_t>(-3));
  EXPECT_EQ(p.logit_bias.at(5), -100);
}

TEST(Request, AbsentAndNullAreDefaults) {
  for (const char* body :
       {R"({"prompt":[3]})", R"({"prompt":[3],"max_tokens":null,"n":null,"stop":null,"seed":null})"}) {
    const CompletionParams p = parse_completion(body, test_limits());
    EXPECT_EQ(p.max_tokens, 16);
    EXPECT_EQ(p.n, 1);
    EXPECT_EQ(p.best_of, 1);
    EXPECT_EQ(p.logprobs, -1);
    EXPECT_EQ(p.sampling.temperature, 1);
    EXPECT_FALSE(p.seed.has_value());
    EXPECT_THAT(std::get<std::vector<int32_t>>(p.prompts.at(0)), ElementsAre(3));
  }
}

// Each body is wrong in one member, which the error must name.
TEST(Request, ErrorsNameTheParameter) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({})", "prompt"},
      {R"({"prompt":""})", "prompt"},
      {R"({"prompt":[]})", "prompt"},
      {R"({"prompt":["a",""]})", "prompt[1]"},
      {R"({"prompt":["a",[]]})", "prompt[1]"},
      {R"({"prompt":7})", "prompt"},
      {R"({"prompt":[1,2.5]})", "prompt"},
      {R"({"prompt":[257]})", "prompt"},
      {R"({"prompt":[-1]})", "prompt"},
      {R"({"prompt":[18446744073709551615]})", "prompt"},
      {R"({"prompt":[1e300]})", "prompt"},
      {R"({"prompt":"a","max_tokens":0})", "max_tokens"},
      {R"({"prompt":"a","max_tokens":-1})", "max_tokens"},
      {R"({"prompt":"a","max_tokens":1.5})", "max_tokens"},
      {R"({"prompt":"a","max_tokens":18446744073709551615})", "max_tokens"},
      {R"({"prompt":"a","max_tokens":"5"})", "max_tokens"},
      {R"({"prompt":"a","temperature":-0.1})", "temperature"},
      {R"({"prompt":"a","temperature":1e300})", "temperature"},
      {R"({"prompt":"a","top_p":0})", "top_p"},
      {R"({"prompt":"a","top_k":-2})", "top_k"},
      {R"({"prompt":"a","n":0})", "n"},
      {R"({"prompt":"a","n":129})", "n"},
      {R"({"prompt":"a","n":2,"best_of":1})", "best_of"},
      {R"({"prompt":"a","best_of":2,"stream":true})", "best_of"},
      {R"({"prompt":"a","logprobs":true})", "logprobs"},
      {R"({"prompt":"a","logprobs":21})", "logprobs"},
      {R"({"prompt":"a","stop":""})", "stop"},
      {R"({"prompt":"a","stop":[1]})", "stop"},
      {R"({"prompt":"a","logit_bias":{"x":1}})", "logit_bias"},
      {R"({"prompt":"a","logit_bias":{"257":1}})", "logit_bias"},
      {R"({"prompt":"a","logit_bias":{"5":101}})", "logit_bias"},
      {R"({"prompt":"a","stream":1})", "stream"},
      {R"({"prompt":"a","stream_options":{"include_usage":true}})", "stream_options"},
      {R"({"prompt":"a","stream":true,"stream_options":{"what":true}})", "stream_options.what"},
      {R"({"prompt":"a","suffix":"b"})", "suffix"},
      {R"({"prompt":"a","user":5})", "user"},
      {R"({"prompt":"a","temprature":1})", "temprature"},
      {R"({"prompt":"a","response_format":{"type":"xml"}})", "response_format.type"},
      {R"({"prompt":"a","response_format":{"type":"json_schema"}})", "response_format.json_schema"},
      {R"({"prompt":"a","response_format":{"type":"regex"}})", "response_format.pattern"},
  };
  for (const auto& [body, param] : cases) {
    const ApiError error = completion_error(body);
    EXPECT_EQ(error.status, 400) << body;
    EXPECT_EQ(error.param, param) << body << "\n" << error.message;
    EXPECT_THAT(error.message, HasSubstr(error.param)) << body;
  }
  EXPECT_THAT(completion_error(R"({"prompt":"a","temprature":1})").message, HasSubstr("'temperature'"));
}

TEST(Request, BrokenBodies) {
  std::string deep, wide = R"({"prompt":[)";
  for (int i = 0; i < 100000; ++i) deep += '[';
  for (int i = 0; i < 101; ++i) wide += i == 0 ? "1" : ",1";
  const std::pair<std::string, const char*> cases[] = {
      {"", "empty"},
      {"[]", "must be a JSON object"},
      {"null", "must be a JSON object"},
      {"{", "byte 2"},
      {R"({"prompt":"a"} x)", "not valid JSON"},
      {R"({"prompt":"a","prompt":"b"})", "twice: prompt"},
      {R"({"prompt":NaN})", "not valid JSON"},
      {R"({"prompt":"a","temperature":1e999})", "too large"},
      {R"({"prompt":"a","temperature":-Infinity})", "not valid JSON"},
      {"{\"prompt\":\"\xff\"}", "UTF-8"},
      {"{\"prompt\":\"\xed\xa0\x80\"}", "UTF-8"},
      {R"({"prompt":"\ud800"})", "not valid JSON"},
      {"{\"prompt\":" + deep, "deeper than 32"},
      {wide + "]}", "101 tokens"},
  };
  for (const auto& [body, message] : cases) {
    const ApiError error = completion_error(body);
    EXPECT_EQ(error.status, 400) << body.substr(0, 80);
    EXPECT_THAT(error.message, HasSubstr(message)) << body.substr(0, 80);
    EXPECT_LT(error.message.size(), 300u);
  }
  EXPECT_EQ(completion_error(wide + "]}").code, "context_length_exceeded");
}

// Long bodies are read another way, which must make no difference.
TEST(Request, LongBodiesAreReadAsShortOnesAre) {
  const std::string blank(5000, ' ');
  for (const char* body : {R"({"a":[1,-2,3.5,1e30,-0.25,18446744073709551615,9007199254740993,0.0]})",
                           R"({"a":[99999999999999999999,1]})", R"({"b":{"c":null,"d":[true,false,[]]},"":{}})",
                           "{\"text\":\"\u00fc \xe2\x82\xac \\n \\\" \\\\ /\"}", R"({"text":"\u00e9 \ud83d\ude00"})"}) {
    const nlohmann::json expected = nlohmann::json::parse(body), got = parse_object(body + blank);
    EXPECT_EQ(got, expected) << body;
    EXPECT_EQ(got.dump(), expected.dump());  // with the types of the numbers
  }
  std::string deep;
  for (int i = 0; i < 40; ++i) deep += R"({"a":)";
  for (const std::string& body :
       {std::string("[]"), std::string("{"), std::string(R"({"a":1} x)"), std::string(R"({"a":1,"a":2})"),
        std::string(R"({"b":{"a":1,"a":2}})"), std::string(R"({"a":1e999})"), std::string(R"({"a":NaN})"),
        std::string("{\"a\":\"\xff\"}"), std::string("{\"a\":\"\xed\xa0\x80\"}"), std::string(R"({"a":"\udc00"})"),
        std::string(R"({"a":"\ud800"})"), deep + "1" + std::string(40, '}'), std::string("{\"a\":01}"),
        std::string("{\"a\":\"\n\"}")}) {
    const auto message = [](const std::string& text) {
      try {
        parse_object(text);
      } catch (const ApiError& error) {
        return error.message;
      }
      return std::string("none");
    };
    EXPECT_NE(message(body), "none") << body;
    if (body != "{") {  // breaks where it ends
      EXPECT_EQ(message(body + blank), message(body)) << body;
    } else {
      EXPECT_THAT(message(body + blank), HasSubstr("byte 5002"));
    }
  }
}

TEST(Request, LongPromptsOfTokens) {
  RequestLimits limits;
  limits.vocab_size = 1000, limits.max_context = 10000, limits.max_prompts = 8;
  std::vector<int32_t> ids(5000);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * 7 % 1000);
  const std::string list = nlohmann::json(ids).dump();
  auto prompts = [&](const std::string& prompt) {
    return parse_completion(R"({"prompt":)" + prompt + "}", limits).prompts;
  };
  EXPECT_EQ(std::get<std::vector<int32_t>>(prompts(list).at(0)), ids);
  const auto three = prompts("[" + list + ",[3,4]," + list + "]");
  ASSERT_EQ(three.size(), 3u);
  EXPECT_EQ(std::get<std::vector<int32_t>>(three[1]), (std::vector<int32_t>{3, 4}));
  EXPECT_EQ(std::get<std::vector<int32_t>>(three[2]), ids);
  EXPECT_EQ(parse_detokenize(R"({"tokens":)" + list + "}", limits).tokens, ids);
  const std::string most(list, 0, list.size() - 1);
  for (const auto& [end, message] :
       std::vector<std::pair<std::string, const char*>>{{",1000]", "holds 1000, but"},
                                                        {",-1]", "holds -1, but"},
                                                        {",1.5]", "at 5000 stands a number"},
                                                        {",\"a\"]", "at 5000 stands a string"},
                                                        {",99999999999999999999]", "at 5000 stands a number"}}) {
    try {
      prompts(most + end);
      ADD_FAILURE() << end;
    } catch (const ApiError& error) {
      EXPECT_THAT(error.message, HasSubstr(message));
    }
  }
  try {
    parse_completion(R"({"stop":)" + list + R"(,"prompt":"a"})", limits);
    ADD_FAILURE();
  } catch (const ApiError& error) {
    EXPECT_THAT(error.message, HasSubstr("'stop' may hold"));
  }
}

TEST(Request, Chat) {
  const ChatParams p = parse_chat(
      R"({"messages":[{"role":"developer","content":"s"},{"role":"user","content":[{"type":"text","text":"a"},
          {"type":"text","text":"b"}]},{"role":"assistant","content":""}],"max_completion_tokens":9,"logprobs":true,
          "top_logprobs":3,"response_format":{"type":"json_schema","json_schema":{"name":"x","strict":true,
          "schema":{"type":"object"}}}})",
      test_limits());
  ASSERT_EQ(p.messages.size(), 3u);
  EXPECT_EQ(p.messages[0].role, "system");
  EXPECT_EQ(p.messages[1].content, "ab");
  EXPECT_EQ(p.max_tokens, 9);
  EXPECT_EQ(p.top_logprobs, 3);
  EXPECT_EQ(p.shape.kind, Shape::Kind::json_schema);
  EXPECT_EQ(p.shape.text, R"({"type":"object"})");

  const std::pair<const char*, const char*> cases[] = {
      {R"({})", "messages"},
      {R"({"messages":[]})", "messages"},
      {R"({"messages":[1]})", "messages[0]"},
      {R"({"messages":[{"role":"tool","content":"a"}]})", "messages[0].role"},
      {R"({"messages":[{"role":"user"}]})", "messages[0].content"},
      {R"({"messages":[{"role":"user","content":[{"type":"image_url"}]}]})", "messages[0].content[0].type"},
      {R"({"messages":[{"role":"user","content":[{"type":"text"}]}]})", "messages[0].content[0].text"},
      {R"({"messages":[{"role":"user","content":"a","name":"b"}]})", "messages[0].name"},
      {R"({"messages":[{"role":"user","content":"a"}],"tools":[]})", "tools"},
      {R"({"messages":[{"role":"user","content":"a"}],"top_logprobs":3})", "top_logprobs"},
      {R"({"messages":[{"role":"user","content":"a"}],"max_tokens":3,"max_completion_tokens":3})", "max_tokens"},
      {R"({"messages":[{"role":"user","content":"a"}],"prompt":"a"})", "prompt"},
  };
  for (const auto& [body, param] : cases) EXPECT_EQ(chat_error(body).param, param) << body;
}

TEST(Request, StateNamesAreNoPaths) {
  for (const char* name : {"", "..", ".a", "a/b", "/a", "a\\\\b", "a\\u0000b", "ä"}) {
    const std::string body = fmt::format(R"({{"name":"{}"}})", name);
    EXPECT_EQ(refusal_of([&] { parse_state(body, test_limits(), false); }).param, "name") << body;
  }
  EXPECT_EQ(parse_state(R"({"name":"a-B_1.x"})", test_limits(), false).name, "a-B_1.x");
  EXPECT_EQ(refusal_of([&] { parse_state(R"({"name":"a"})", test_limits(), true); }).param, "prompt");
}

}  // namespace rattan::serve
