// Regular expressions over a vocabulary, against std::regex.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <regex>
#include <thread>

#include "rattan/base/error.h"
#include "tests/infer/engine_tools.h"
#include "tests/infer/grammar_tools.h"

namespace rattan::infer::regex_grammar_test {

// Of a syntax that means the same to std::regex (ECMAScript).
std::string random_regex(Rng& rng, int depth) {
  static const char* atoms[] = {"a",   "b",   "0", "1",   " ",      "[ab]", "[^ab]", "[0-9a]", "\\d",     "\\w",
                                "\\s", "\\D", ".", "\\.", "[^\\w]", "\\{",  "ab",    "10",     "[a\\-1]", "(?:)"};
  static const char* repeats[] = {"*", "+", "?", "{2}", "{1,}", "{0,3}", "{2,3}"};
  std::string out;
  for (uint64_t parts = 1 + rng.below(3); parts > 0; --parts) {
    if (depth > 0 && rng.below(2) == 0) {
      out += "(" + random_regex(rng, depth - 1);
      if (rng.below(2) == 0) out += "|" + random_regex(rng, depth - 1);
      out += ")";
    } else {
      const std::string atom = atoms[rng.below(std::size(atoms))];
      out += atom == "ab" || atom == "10" ? "(" + atom + ")" : atom;
    }
    if (rng.below(3) == 0) out += repeats[rng.below(std::size(repeats))];
  }
  return out;
}

TEST(RegexGrammar, RandomTextsOverRandomPiecesMatch) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    Rng rng(seed);
    const PieceTokenizer tokenizer(ascii_pieces(rng));
    const std::string regex = random_regex(rng, 2);
    SCOPED_TRACE(testing::Message() << "seed " << seed << ": " << regex);
    const auto grammar = regex_grammar(std::make_shared<Vocabulary>(tokenizer), regex);
    for (int i = 0; i < 10; ++i) {
      const std::string text = random_text(*grammar, tokenizer, 20, rng);
      EXPECT_TRUE(std::regex_match(text, std::regex(regex))) << text;
    }
  }
}

TEST(RegexGrammar, LetsThroughWhatMatchesAndNothingElse) {
  const auto bytes = bytes_tokenizer();
  const auto vocabulary = std::make_shared<Vocabulary>(*bytes);
  int64_t matched = 0;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    Rng rng(seed);
    const std::string regex = random_regex(rng, 1), letters = "ab01 .";
    const auto grammar = regex_grammar(vocabulary, regex);
    const std::regex reference(regex);
    for (int i = 0; i < 60; ++i) {
      std::string text;
      for (uint64_t n = rng.below(6); n > 0; --n) text += letters[rng.below(letters.size())];
      SCOPED_TRACE(testing::Message() << "seed " << seed << ": " << regex << " on " << text);
      const bool matches = std::regex_match(text, reference);
      matched += matches;
      EXPECT_EQ(accepts(*grammar, text, 256), matches);
    }
  }
  EXPECT_GT(matched, 100);  // both answers were put to the test
}

TEST(RegexGrammar, CharactersAreThoseOfUtf8) {
  const auto bytes = bytes_tokenizer();
  const auto vocabulary = std::make_shared<Vocabulary>(*bytes);
  auto fits = [&](const char* regex, const char* text) {
    return accepts(*regex_grammar(vocabulary, regex), text, 256);
  };
  EXPECT_TRUE(fits(".{3}", "aé漢"));
  EXPECT_FALSE(fits(".{3}", "aé"));
  EXPECT_TRUE(fits("[à-ÿ]+", "éàÿ"));
  EXPECT_FALSE(fits("[à-ÿ]+", "ß"));
  EXPECT_TRUE(fits("[^é]", "😀"));
  EXPECT_FALSE(fits("[^é]", "é"));
  EXPECT_TRUE(fits("\\u00e9\\x41", "éA"));
  EXPECT_TRUE(fits("^a$|^b$", "b"));
  EXPECT_FALSE(fits(".", "\xC3"));
  EXPECT_FALSE(fits(".", "\xED\xA0\x80")) << "a surrogate";
  EXPECT_FALSE(fits(".", "\xC0\x80")) << "an overlong form";
}

TEST(RegexGrammar, WhatAVocabularyCannotWriteIsNotOffered) {
  const PieceTokenizer tokenizer({"a", "b", "ab", "c\xC3", "xa"});
  const auto vocabulary = std::make_shared<Vocabulary>(tokenizer);
  const auto grammar = regex_grammar(vocabulary, "[^b]+|abx|ax*");
  Rng rng(1);
  for (int i = 0; i < 20; ++i) EXPECT_THAT(random_text(*grammar, tokenizer, 10, rng), testing::MatchesRegex("a+"));
  EXPECT_THROW(regex_grammar(vocabulary, "x+"), InputError);
}

TEST(RegexGrammar, ErrorsNameTheByte) {
  const auto bytes = bytes_tokenizer();
  const auto vocabulary = std::make_shared<Vocabulary>(*bytes);
  const std::pair<const char*, const char*> cases[] = {
      {"ab(c", "byte 4: a group is not closed"},
      {"a)b", "byte 1"},
      {"*a", "byte 0"},
      {"a**", "byte 2"},
      {"a{3,1}", "at least more"},
      {"[z-a]", "backwards"},
      {"[abc", "not closed"},
      {"a{1001}", "1000"},
      {"(?=a)", "'(?:'"},
      {"a^b", "byte 1"},
      {"a$b", "byte 2"},
      {"\\bx", "'\\b'"},
      {"\\ud800", "surrogate"},
      {"a\xFF", "UTF-8"},
      {"\\", "backslash"},
      {"[^\\d\\D]", "no text"},
      {"a{x}", "number"},
      {"(a|b)*a(a|b){25}", "complex"},
      {"((.{1000}){1000}){1000}", "too large"},
  };
  expect_refused(cases, [&](const std::string& regex) { regex_grammar(vocabulary, regex); });
  EXPECT_THROW(regex_grammar(vocabulary, std::string(200, '(') + std::string(200, ')')), InputError);
}

TEST(RegexGrammar, ThreadsShareOne) {
  const auto bytes = bytes_tokenizer();
  const auto grammar = regex_grammar(std::make_shared<Vocabulary>(*bytes), "(\\w{1,20}, ){3}[^a]{5}|\\d{40}");
  std::vector<std::string> texts(8);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < texts.size(); ++i)
    threads.emplace_back([&, i] {
      Rng rng(i / 2);  // two of each
      texts[i] = random_text(*grammar, *bytes, 40, rng);
    });
  for (std::thread& thread : threads) thread.join();
  for (std::size_t i = 0; i < texts.size(); i += 2) EXPECT_EQ(texts[i], texts[i + 1]);
}

TEST(RegexGrammar, TheEngineKeepsToIt) {
  const auto model = tiny_model();
  const auto bytes = bytes_tokenizer();
  Engine engine(*model, *bytes, small_engine(false));
  const std::string regex = "(yes|no|maybe), \\d{2,4}( and [a-f]{3}){1,2}\\.";
  const auto grammar = regex_grammar(std::make_shared<Vocabulary>(*bytes), regex);
  for (const double temperature : {0.0, 1.0, 5.0}) {
    EngineRequest r = plain_request(bytes->encode("In the"), 60, 11);
    r.choices = 4;
    r.grammar = grammar;
    r.end_tokens = {256};
    r.sampling.temperature = temperature;
    Answers told(4);
    engine.submit(r, told.listener());
    for (const Answer& answer : told.wait()) {
      EXPECT_EQ(answer.finish, Finish::end_of_document);
      EXPECT_TRUE(std::regex_match(answer.text, std::regex(regex))) << temperature << ": " << answer.text;
    }
  }
}

}  // namespace rattan::infer::regex_grammar_test
