#include "rattan/base/config_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <nlohmann/json.hpp>

#include "rattan/base/error.h"
#include "rattan/base/random.h"

namespace rattan::config_json_test {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

struct Inner {
  double x = 1;
  int64_t n = 3;
  void fields(Fields& f) {
    f("x", x, "a number");
    f("n", n, "a count", at_least(0));
  }
};

struct Outer {
  bool on = false;
  std::string name;
  std::vector<double> list;
  std::map<std::string, Inner> named;
  std::vector<Inner> items;
  void fields(Fields& f) {
    f("on", on, "a switch");
    f("name", name, "a name");
    f("list", list, "numbers");
    f.named("named", named, "named tables");
    f.list("items", items, "a list of tables");
  }
};

std::string text_of(Outer value) {
  return to_json([&](Fields& f) { value.fields(f); }).dump(2);
}

Outer read(const std::string& text) {
  Outer value;
  config_from_json(text, "config.json").read(value);
  return value;
}

std::string error_of(const std::string& text) {
  try {
    read(text);
  } catch (const InputError& error) {
    return error.what();
  }
  ADD_FAILURE() << "accepted: " << text;
  return "";
}

TEST(ConfigJson, ReadsBackBitForBit) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    Rng rng(seed);
    auto real = [&] {
      double value = std::bit_cast<double>(rng.next_u64());
      return std::isnan(value) ? 1.5 : value;
    };
    Outer value;
    value.on = rng.below(2) == 1;
    value.name = "a\"\\\n\x01é";
    value.list = {real(), real(), -0.0, INFINITY, -INFINITY};
    value.named["p.q"] = {real(), static_cast<int64_t>(rng.below(INT64_MAX))};
    value.named[""] = {real(), INT64_MAX};
    value.items.resize(rng.below(3), {real(), 0});
    std::string text = text_of(value);
    SCOPED_TRACE(text);
    Outer again = read(text);
    EXPECT_EQ(text_of(again), text);
    EXPECT_EQ(again.name, value.name);
    ASSERT_EQ(again.list.size(), value.list.size());
    for (std::size_t i = 0; i < value.list.size(); ++i) {
      EXPECT_EQ(std::bit_cast<uint64_t>(again.list[i]), std::bit_cast<uint64_t>(value.list[i]));
    }
    EXPECT_EQ(again.named.at("p.q").x, value.named.at("p.q").x);
    EXPECT_EQ(again.named.at("").n, INT64_MAX);
    EXPECT_EQ(again.items.size(), value.items.size());
  }
}

TEST(ConfigJson, KeysKeepTheOrderOfTheDescription) {
  std::string text = text_of({});
  EXPECT_LT(text.find("\"on\""), text.find("\"name\""));
  EXPECT_LT(text.find("\"name\""), text.find("\"list\""));
}

TEST(ConfigJson, ErrorsNameFileAndLine) {
  EXPECT_THAT(error_of("{\n\"nam\": \"x\"}"), AllOf(StartsWith("config.json:2: "), HasSubstr("did you mean 'name'?")));
  EXPECT_THAT(error_of("{\n\n\"named\": {\"a\":\n{\"n\": 1.5}}}"),
              AllOf(StartsWith("config.json:4: "), HasSubstr("'named.a.n'"), HasSubstr("a whole number, got 1.5")));
  EXPECT_THAT(error_of("{\"items\": [{\"n\": -1}]}"), HasSubstr("at least 0, got -1"));
  EXPECT_THAT(error_of("{\"on\": null}"), HasSubstr("true or false, got null"));
  EXPECT_THAT(error_of("{\"named\": {\"a\": {\"n\": 9223372036854775808}}}"), HasSubstr("exceeds 64 bits"));
  EXPECT_THAT(error_of("{\"on\": true,\n\"on\": true}"), AllOf(StartsWith("config.json:2: "), HasSubstr("twice")));
}

TEST(ConfigJson, BrokenTextIsRefused) {
  EXPECT_THAT(error_of("{\n\"on\": tru}"), StartsWith("config.json:2: not valid JSON"));
  EXPECT_THAT(error_of(""), StartsWith("config.json:1: not valid JSON"));
  EXPECT_THAT(error_of("[1]"), HasSubstr("expected a JSON object"));
  EXPECT_THAT(error_of("{} x"), HasSubstr("not valid JSON"));
  EXPECT_THAT(error_of("{\"name\": \"\xff\"}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(error_of(std::string(100000, '[')), HasSubstr("nested more than"));
}

}  // namespace rattan::config_json_test
