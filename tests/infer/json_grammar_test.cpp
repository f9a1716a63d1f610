// JSON schemas over a vocabulary, against a parser and a small validator.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <regex>

#include "rattan/base/error.h"
#include "tests/infer/engine_tools.h"
#include "tests/infer/grammar_tools.h"

namespace rattan::infer::json_grammar_test {

using json = nlohmann::ordered_json;

int64_t characters(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; });
}

bool valid(const json& schema, const json& value);

bool valid_object(const json& schema, const json& value) {
  if (!value.is_object()) return false;
  if (!schema.contains("properties")) return true;
  for (const auto& [name, inner] : value.items())
    if (!schema["properties"].contains(name) || !valid(schema["properties"][name], inner)) return false;
  for (const json& name : schema.value("required", json::array()))
    if (!value.contains(name.get<std::string>())) return false;
  return true;
}

bool valid(const json& schema, const json& value) {
  if (schema.is_boolean() || schema.empty()) return true;
  if (schema.contains("anyOf"))
    return std::any_of(schema["anyOf"].begin(), schema["anyOf"].end(), [&](const json& s) { return valid(s, value); });
  if (schema.contains("const")) return value == schema["const"];
  if (schema.contains("enum")) return std::count(schema["enum"].begin(), schema["enum"].end(), value) > 0;
  const std::string type = schema["type"];
  if (type == "object") return valid_object(schema, value);
  const auto within = [&](const char* least, const char* most, int64_t n) {
    return n >= schema.value(least, int64_t{0}) && n <= schema.value(most, INT64_MAX);
  };
  if (type == "array")
    return value.is_array() && within("minItems", "maxItems", std::ssize(value)) &&
           std::all_of(value.begin(), value.end(),
                       [&](const json& item) { return valid(schema.value("items", json(true)), item); });
  if (type == "string")
    return value.is_string() && within("minLength", "maxLength", characters(value.get<std::string>())) &&
           (!schema.contains("pattern") ||
            std::regex_search(value.get<std::string>(), std::regex(schema["pattern"].get<std::string>())));
  if (type == "integer") return value.is_number_integer();
  if (type == "number") return value.is_number();
  return type == "boolean" ? value.is_boolean() : value.is_null();
}

json random_schema(Rng& rng, int depth) {
  const uint64_t kind = rng.below(depth > 0 ? 13 : 9);
  const auto few = static_cast<int64_t>(rng.below(3));
  switch (kind) {
    case 0:
      return {{"type", "integer"}, {"title", "a number"}};
    case 1:
      return {{"type", "number"}};
    case 2:
      return {{"type", rng.below(2) == 0 ? "boolean" : "null"}};
    case 3:
      return {{"type", "string"}, {"minLength", few}, {"maxLength", few + 4}};
    case 4:
      return {{"type", "string"}, {"pattern", rng.below(2) == 0 ? "^[a-c\"]{1,3}\\\\?$" : "a\\d|^b"}};
    case 5:
      return {{"enum", {"a\"b", 1, 2.5, nullptr, json::array({1, "x"}), {{"k", false}}}}};
    case 6:
      return {{"const", "\u00e9\n\\"}};
    case 7:
      return {{"type", "string"}};
    case 8:
      return rng.below(2) == 0 ? json::object() : json(true);
    case 9:
      return {{"anyOf", {random_schema(rng, depth - 1), random_schema(rng, depth - 1)}}};
    case 10:
      return {{"type", "array"}, {"items", random_schema(rng, depth - 1)}, {"minItems", few}, {"maxItems", few + 2}};
    default: {
      json properties = json::object(), required = json::array();
      for (const char* name : {"zeta", "al\"pha", "n", "b"}) {
        if (rng.below(3) == 0) continue;
        properties[name] = random_schema(rng, depth - 1);
        if (rng.below(2) == 0) required.push_back(name);
      }
      return {{"type", "object"}, {"properties", properties}, {"required", required}, {"additionalProperties", false}};
    }
  }
}

TEST(JsonGrammar, RandomTextsOfRandomSchemasAreValid) {
  const auto bytes = bytes_tokenizer();
  for (uint64_t seed = 0; seed < 40; ++seed) {
    Rng rng(seed);
    const json schema = random_schema(rng, 2);
    const auto grammar = schema_grammar(std::make_shared<Vocabulary>(*bytes), schema.dump());
    for (int i = 0; i < 6; ++i) {
      const std::string text = random_text(*grammar, *bytes, 60, rng);
      SCOPED_TRACE(testing::Message() << "seed " << seed << ": " << schema.dump() << "\n" << text);
      const json value = json::parse(text, nullptr, false);
      ASSERT_FALSE(value.is_discarded());
      EXPECT_TRUE(valid(schema, value));
    }
  }
}

TEST(JsonGrammar, ObjectsOverLongPiecesParse) {
  for (uint64_t seed = 0; seed < 5; ++seed) {
    SCOPED_TRACE(seed);
    Rng rng(seed);
    const PieceTokenizer tokenizer(ascii_pieces(rng));
    const auto grammar = json_grammar(std::make_shared<Vocabulary>(tokenizer));
    for (int i = 0; i < 20; ++i) {
      const std::string text = random_text(*grammar, tokenizer, 60, rng);
      EXPECT_TRUE(json::parse(text, nullptr, false).is_object()) << text;
    }
  }
}

TEST(JsonGrammar, WhatMayComeAndWhatMayNot) {
  const auto bytes = bytes_tokenizer();
  const auto vocabulary = std::make_shared<Vocabulary>(*bytes);
  const auto any = json_grammar(vocabulary);
  for (const char* text : {"{}", R"({"a": [1, -2.5e3,"x\u00e9\n"],"b":{"c":null}})", R"({"a":{"b":{"c":{"d":[]}}}})"})
    EXPECT_TRUE(accepts(*any, text, 256)) << text;
  for (const char* text : {"[]", "{ }", R"({"a":01})", R"({"a":1,})", R"({"a":"\ud800"})", "{\"a\":\"\n\"}",
                           R"({"a":{"b":{"c":{"d":{"e":{}}}}}})"})
    EXPECT_FALSE(accepts(*any, text, 256)) << text;

  const auto person = schema_grammar(vocabulary, R"({"type":"object","properties":{"name":{"type":"string"},
      "age":{"$ref":"#/$defs/age"},"mail":{"type":["string","null"]}},"required":["age"],
      "$defs":{"age":{"type":"integer"}}})");
  for (const char* text : {R"({"age":3})", R"({"name":"x", "age":3})", R"({"age": 3,"mail":null})"})
    EXPECT_TRUE(accepts(*person, text, 256)) << text;
  for (const char* text : {"{}", R"({"name":"x"})", R"({"age":3,"name":"x"})", R"({,"age":3})", R"({"age":3.5})"})
    EXPECT_FALSE(accepts(*person, text, 256)) << text;
}

TEST(JsonGrammar, ErrorsNameThePlaceAndTheKeyword) {
  const auto bytes = bytes_tokenizer();
  const auto vocabulary = std::make_shared<Vocabulary>(*bytes);
  const std::pair<const char*, const char*> cases[] = {
      {R"({"type":"object","properties":{"a":{"type":"integer","minimum":3}}})",
       "schema.properties.a: the keyword 'minimum'"},
      {R"({"oneOf":[]})", "'oneOf'"},
      {R"({"type":"text"})", "schema.type"},
      {R"({"type":"array","items":false})", "schema.items: false"},
      {R"({"type":"string","minItems":3})", "'minItems'"},
      {R"({"type":"string","minLength":-1})", "schema.minLength"},
      {R"({"type":"string","minLength":4,"maxLength":2})", "above"},
      {R"({"type":"string","pattern":"(a"})", "schema.pattern: the regular expression breaks at byte 2"},
      {R"({"type":"string","pattern":"a","minLength":1})", "beside"},
      {R"({"type":"object","properties":{},"required":["x"]})", "'x'"},
      {R"({"type":"integer","enum":["a"]})", "not of the 'type'"},
      {R"({"enum":[]})", "schema.enum"},
      {R"({"anyOf":[],"type":"null"})", "beside 'anyOf'"},
      {R"({"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/a"}}})", "may refer to itself"},
      {R"({"$ref":"other.json"})", "schema.$ref"},
      {R"({"type":"string","maxLength":100000})", "nodes"},
      {"[1]", "must be an object"},
      {"{", "not valid JSON"},
  };
  expect_refused(cases, [&](const std::string& schema) { schema_grammar(vocabulary, schema); });
}

TEST(JsonGrammar, TheEngineKeepsToIt) {
  const auto model = tiny_model();
  const auto bytes = bytes_tokenizer();
  Engine engine(*model, *bytes, small_engine(false));
  const json schema = json::parse(R"({"type":"object","properties":{"name":{"type":"string","maxLength":8},
      "age":{"type":"integer"},"tags":{"type":"array","items":{"enum":["x","y"]},"maxItems":3}},
      "required":["name","age"]})");
  const auto grammar = schema_grammar(std::make_shared<Vocabulary>(*bytes), schema.dump());
  for (const double temperature : {0.0, 1.0}) {
    EngineRequest r = plain_request(bytes->encode("In the"), 150, 5);
    r.choices = 4;
    r.grammar = grammar;
    r.end_tokens = {256};
    r.sampling.temperature = temperature;
    Answers told(4);
    engine.submit(r, told.listener());
    for (const Answer& answer : told.wait()) {
      EXPECT_EQ(answer.finish, Finish::end_of_document);
      const json value = json::parse(answer.text, nullptr, false);
      EXPECT_TRUE(!value.is_discarded() && valid(schema, value)) << answer.text;
    }
  }
}

}  // namespace rattan::infer::json_grammar_test
