// Answers of a given form through the routes, over a real engine with a small model.
#include <regex>

#include "api_fixture.h"
#include "rattan/serve/engine_backend.h"
#include "rattan/serve/openapi.h"
#include "tests/infer/engine_tools.h"

namespace rattan::serve {

using nlohmann::json;

class GuidedTest : public ApiTest {
 protected:
  GuidedTest() { api->ready({&engine, tokenizer.get(), ChatTemplate{}, limits()}); }
  ~GuidedTest() override { pool.stop(); }  // what is under way still uses the engine

  json completion(const std::string& format, const std::string& more = "") {
    const std::string body = R"({"prompt":"In the","max_tokens":150,"seed":3,"response_format":)" + format + more + "}";
    return post("/v1/completions", body)->json();
  }

  std::unique_ptr<models::LanguageModel> model = infer::tiny_model();
  EngineBackend engine{*model, *tokenizer, infer::small_engine(false)};
};

TEST_F(GuidedTest, ARegularExpressionDecidesTheText) {
  const json answer = completion(R"({"type":"regex","pattern":"(yes|no), \\d{3}"})", R"(,"n":3)");
  ASSERT_EQ(answer["choices"].size(), 3u) << answer;
  for (const json& choice : answer["choices"]) {
    EXPECT_TRUE(std::regex_match(choice["text"].get<std::string>(), std::regex("(yes|no), \\d{3}"))) << choice;
    EXPECT_EQ(choice["finish_reason"], "stop");
  }
}

TEST_F(GuidedTest, ASchemaDecidesTheAnswerAndItsOrder) {
  const auto reply = post("/v1/chat/completions", R"({"messages":[{"role":"user","content":"Hi"}],"seed":4,
      "max_tokens":120,"response_format":{"type":"json_schema","json_schema":{"name":"x","strict":true,"schema":{
      "type":"object","properties":{"z":{"type":"integer"},"a":{"type":"string","maxLength":5}},
      "required":["z","a"],"additionalProperties":false}}}})");
  ASSERT_EQ(reply->response.status, 200) << reply->json();
  const json choice = reply->json()["choices"][0];
  const auto value = nlohmann::ordered_json::parse(choice["message"]["content"].get<std::string>());
  ASSERT_EQ(value.size(), 2u);
  EXPECT_EQ(value.begin().key(), "z");
  EXPECT_TRUE(value["z"].is_number_integer());
  EXPECT_TRUE(value["a"].is_string());
  EXPECT_EQ(choice["finish_reason"], "stop");
}

TEST_F(GuidedTest, JsonObjectsBeginAsOne) {
  const json answer = completion(R"({"type":"json_object"})", R"(,"logit_bias":{"125":100})");  // a closing brace
  const auto text = answer["choices"][0]["text"].get<std::string>();
  EXPECT_TRUE(json::parse(text).is_object()) << text;
}

TEST_F(GuidedTest, WhatCannotBeIsRefusedByName) {
  const std::string schema = R"({"type":"json_schema","json_schema":{"name":"x","schema":)";
  const std::pair<std::string, const char*> cases[] = {
      {R"({"type":"regex","pattern":"(a"})", "breaks at byte 2"},
      {R"({"type":"regex","pattern":"(a|b)*a(a|b){30}"})", "too complex"},
      {schema + R"({"type":"integer","multipleOf":2}}})", "'multipleOf'"},
      {schema + R"({"type":"thing"}}})", "schema.type"},
  };
  for (const auto& [format, part] : cases) {
    const json error = completion(format)["error"];
    EXPECT_EQ(error["type"], "invalid_request_error");
    EXPECT_EQ(error["param"], "response_format");
    EXPECT_THAT(error["message"].get<std::string>(), testing::HasSubstr(part));
  }
  EXPECT_EQ(completion(R"({"type":"json_object"})", R"(,"ignore_eos":true)")["error"]["param"], "ignore_eos");
}

TEST_F(GuidedTest, EqualShapesShareOneGrammar) {
  const Shape shape{Shape::Kind::regex, "a+"};
  EXPECT_EQ(engine.grammar(shape), engine.grammar(shape));
  EXPECT_NE(engine.grammar(shape), engine.grammar({Shape::Kind::regex, "b+"}));
}

TEST_F(GuidedTest, TheDocumentListsTheForms) {
  const json document = openapi_document(limits());
  const json& wanted = document["paths"]["/v1/completions"]["post"]["requestBody"]["content"]["application/json"]
                               ["schema"]["properties"]["response_format"]["anyOf"];
  ASSERT_EQ(wanted.size(), 2u);
  EXPECT_EQ(wanted[1], json({{"type", "null"}})) << "nothing is wanted";
  const json& forms = wanted[0]["anyOf"];
  ASSERT_EQ(forms.size(), 4u);
  for (const json& form : forms) {
    EXPECT_EQ(form["type"], "object");
    EXPECT_TRUE(form["required"].is_array());
    EXPECT_TRUE(form["properties"]["type"]["const"].is_string());
  }
}

}  // namespace rattan::serve
