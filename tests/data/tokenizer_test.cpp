#include "rattan/data/tokenizer.h"

#include <gmock/gmock.h>
#include <rapidcheck.h>
#include <sentencepiece_processor.h>

#include "data_test_util.h"
#include "rattan/data/utf8.h"

namespace rattan::data_test {

using testing::HasSubstr;

const char* const kKinds[] = {"bytes", "bpe", "unigram"};

// Bytes in which everything that needs care is frequent.
rc::Gen<std::string> awkward_text() {
  auto part = rc::gen::oneOf(
      rc::gen::container<std::string>(rc::gen::arbitrary<char>()),
      rc::gen::container<std::string>(rc::gen::inRange('a', 'f')),
      rc::gen::element<std::string>(" ", "  ", "\n", "\t", "\r\n", std::string(1, '\0'), "\xE2\x96\x81", "\xE2\x96\x85",
                                    "\xE2\x96", "\xFF", "</s>", "<unk>", "<0x41>", "\xC3\xA9", "\xF0\x9F\x98\x80",
                                    "\xED\xA0\x80", "\xEF\xBB\xBF", "e\xCC\x81", "\xE2\x81\x87", " the ", "1234"));
  return rc::gen::map(rc::gen::container<std::vector<std::string>>(part), [](const std::vector<std::string>& parts) {
    std::string text;
    for (const std::string& p : parts) text += p;
    return text;
  });
}

TEST(Tokenizer, DecodeOfEncodeIsTheTextForAnyBytes) {
  for (const char* kind : kKinds) {
    SCOPED_TRACE(kind);
    const Tokenizer& t = tokenizer(kind);
    EXPECT_TRUE(t.lossless());
    EXPECT_TRUE(rc::check([&] {
      std::string text = *awkward_text();
      std::vector<int32_t> ids = t.encode(text);
      RC_ASSERT(t.decode(ids) == text);
      std::string streamed;
      for (int32_t id : ids) {
        RC_ASSERT(id >= 0 && id < t.vocab_size() && id != t.eos());
        streamed += t.decode_piece(id, streamed.empty());
      }
      RC_ASSERT(streamed == text);
    }));
  }
}

// A text encoded in pieces, cut wherever safe_cut allows, has the tokens of the whole.
TEST(Tokenizer, SafeCutsKeepTheTokens) {
  for (const char* kind : kKinds) {
    SCOPED_TRACE(kind);
    const Tokenizer& t = tokenizer(kind);
    int cuts = 0;
    EXPECT_TRUE(rc::check([&] {
      std::string text = *awkward_text() + made_up_text(*rc::gen::inRange(0, 300), *rc::gen::arbitrary<uint64_t>());
      std::vector<int32_t> pieces;
      auto encoder = t.encoder();
      std::string held;
      bool first = true;
      auto encode = [&](std::string_view part) {
        if (first)
          encoder->encode(part, pieces);
        else
          encoder->encode_more(part, pieces);
        first = false;
      };
      for (std::size_t at = 0; at < text.size();) {
        std::size_t n = std::min<std::size_t>(text.size() - at, *rc::gen::inRange<std::size_t>(1, 40));
        held += text.substr(at, n);
        at += n;
        std::size_t cut = t.safe_cut(held);
        RC_ASSERT(cut <= held.size());
        if (cut == 0) continue;
        encode(std::string_view(held).substr(0, cut));
        held.erase(0, cut);
        ++cuts;
      }
      encode(held);
      RC_ASSERT(pieces == t.encode(text));
    }));
    EXPECT_GT(cuts, 100);
  }
}

// A stretch without any safe place is still cut, so that memory stays bounded.
TEST(Tokenizer, LongStretchesWithoutBlanksAreCutAlike) {
  const Tokenizer& t = tokenizer("bpe");
  std::string text(200'000, 'a');
  for (std::size_t i = 0; i < text.size(); i += 3) text[i] = static_cast<char>('b' + i % 7);
  std::size_t cut = t.safe_cut(std::string_view(text).substr(0, 150'000));
  ASSERT_GT(cut, 60'000u);
  std::vector<int32_t> ids;
  auto encoder = t.encoder();
  encoder->encode(std::string_view(text).substr(0, cut), ids);
  encoder->encode_more(std::string_view(text).substr(cut), ids);
  EXPECT_EQ(ids, t.encode(text));
  EXPECT_EQ(t.decode(ids), text);
}

// For text that the library leaves alone, cutting into words gives what the library gives for the whole. Unigram
// scores are summed in float by the library, so that ties of long texts may fall differently; hence short ones.
TEST(Tokenizer, AgreesWithTheLibraryOnWholeTexts) {
  for (const char* kind : {"bpe", "unigram"}) {
    SCOPED_TRACE(kind);
    std::string model = trained_model(kind, 400);
    auto ours = sentencepiece_tokenizer(model, kind);
    sentencepiece::SentencePieceProcessor library;
    ASSERT_TRUE(library.LoadFromSerializedProto(model).ok());
    for (uint64_t seed = 100; seed < 200; ++seed) {
      std::string text = made_up_text(300, seed);
      text.resize(utf8_complete(text));
      SCOPED_TRACE(seed);
      std::vector<int> expected;
      ASSERT_TRUE(library.Encode(text, &expected).ok());
      ASSERT_EQ(ours->encode(text), std::vector<int32_t>(expected.begin(), expected.end()));
    }
  }
}

// A model with a dummy prefix (as Llama's): texts start with a blank that is not theirs, and nothing is lost.
TEST(Tokenizer, DummyPrefixIsAddedOnceAndTakenBack) {
  std::string model = trained_model("bpe", 400);
  std::string prefixed = model + std::string("\x1A\x02\x18\x01", 4);  // normalizer_spec { add_dummy_prefix: true }
  auto t = sentencepiece_tokenizer(prefixed, "prefixed");
  sentencepiece::SentencePieceProcessor library;
  ASSERT_TRUE(library.LoadFromSerializedProto(prefixed).ok());
  EXPECT_TRUE(t->lossless());
  for (const std::string text : {"", " ", "a", " a b", "the word", "\n x"}) {
    std::vector<int> expected;
    ASSERT_TRUE(library.Encode(text, &expected).ok());
    EXPECT_EQ(t->encode(text), std::vector<int32_t>(expected.begin(), expected.end())) << '"' << text << '"';
    EXPECT_EQ(t->decode(t->encode(text)), text);
  }
  EXPECT_TRUE(rc::check([&] {
    std::string text = *awkward_text();
    RC_ASSERT(t->decode(t->encode(text)) == text);
  }));
}

TEST(Tokenizer, TrainingIsRepeatableHoweverTheTextIsHandedOver) {
  for (const char* type : {"bpe", "unigram"}) {
    std::string text = made_up_text(60'000, 5);
    auto train = [&](std::size_t portion) {
      TokenizerTrainer trainer({type, 350});
      for (std::size_t at = 0; at < text.size();) {
        std::size_t end = std::min(text.size(), at + portion);
        while (end < text.size() && text[end - 1] != '\n') ++end;
        trainer.add(std::string_view(text).substr(at, end - at));
        at = end;
      }
      return trainer.train();
    };
    EXPECT_EQ(train(1 << 20), train(500)) << type;
  }
}

TEST(Tokenizer, TrainingTakesLongLinesAndAwkwardBytes) {
  std::string text = made_up_text(50'000, 9);
  std::replace(text.begin(), text.end(), '\n', ' ');  // one line, far longer than the library takes
  text += std::string("\0\xFF\xE2\x96\x81 \xE2\x96\x85\t", 10);
  TokenizerTrainer trainer({"bpe", 400});
  trainer.add(text);
  auto t = sentencepiece_tokenizer(trainer.train(), "trained");
  EXPECT_EQ(t->vocab_size(), 400);
  // It did learn from the line: without pieces of its own a text has a token a byte.
  EXPECT_LT(t->encode(text).size(), text.size() * 2 / 3);
  EXPECT_EQ(t->decode(t->encode(text)), text);
}

TEST(Tokenizer, TrainingRefusesWhatCannotBe) {
  EXPECT_THAT(input_error([] { TokenizerTrainer({"word", 400}); }), HasSubstr("bpe or unigram"));
  EXPECT_THAT(input_error([] { TokenizerTrainer({"bpe", 100}); }), HasSubstr("260"));
  EXPECT_THAT(input_error([] { TokenizerTrainer({"bpe", 400}).train(); }), HasSubstr("no text"));
  for (const char* type : {"bpe", "unigram"})
    EXPECT_THAT(input_error([&] {
                  TokenizerTrainer trainer({type, 5000});
                  trainer.add("a few words are too few");
                  trainer.train();
                }),
                HasSubstr("too small for 5000 pieces"));
}

TEST(Tokenizer, SavesAndLoads) {
  for (const char* kind : kKinds) {
    TempFolder folder;
    const Tokenizer& t = tokenizer(kind);
    std::filesystem::path path = t.save(folder.path());
    for (const auto& place : {path, folder.path()}) {
      auto loaded = load_tokenizer(place);
      EXPECT_EQ(loaded->fingerprint(), t.fingerprint());
      EXPECT_EQ(loaded->kind(), kind);
      EXPECT_EQ(loaded->vocab_size(), t.vocab_size());
      EXPECT_EQ(loaded->encode("some text"), t.encode("some text"));
    }
  }
  EXPECT_EQ(load_tokenizer("bytes")->kind(), "bytes");
  EXPECT_NE(tokenizer("bpe").fingerprint(), tokenizer("unigram").fingerprint());
}

TEST(Tokenizer, WrongFilesAreRefusedWithTheirNames) {
  TempFolder folder;
  EXPECT_THAT(input_error([&] { load_tokenizer(folder / "none.model"); }), HasSubstr("no such file"));
  EXPECT_THAT(input_error([&] { load_tokenizer(folder.path()); }), HasSubstr("no tokenizer in this folder"));
  EXPECT_THAT(input_error([&] { load_tokenizer(folder.put("a.bin", "x")); }), HasSubstr("a.bin"));
  EXPECT_THAT(input_error([&] { load_tokenizer(folder.put("empty.model", "")); }), HasSubstr("empty"));
  EXPECT_THAT(input_error([&] { load_tokenizer(folder.put("tokenizer.json", "{}")); }), HasSubstr("not read yet"));
  EXPECT_THAT(input_error([&] { load_tokenizer(folder.put("x.bytes", "words\n")); }), HasSubstr("bytes"));
  std::string model = trained_model("bpe", 300);
  for (std::size_t size = 1; size < model.size(); size += 1 + size / 3)
    EXPECT_THAT(input_error([&] { sentencepiece_tokenizer(model.substr(0, size), "cut.model"); }),
                HasSubstr("cut.model"));
  EXPECT_THAT(input_error([&] { require_same_vocabulary("bpe:1", "bpe:2", "model m"); }),
              testing::AllOf(HasSubstr("model m"), HasSubstr("bpe:1"), HasSubstr("bpe:2")));
}

TEST(Tokenizer, IdsOutOfRangeAreRefused) {
  for (const char* kind : kKinds) {
    const Tokenizer& t = tokenizer(kind);
    for (int32_t id : {-1, static_cast<int32_t>(t.vocab_size()), INT32_MAX})
      EXPECT_THAT(input_error([&] { t.decode(std::vector<int32_t>{id}); }), HasSubstr("out of range"));
    EXPECT_EQ(t.decode(std::vector<int32_t>{t.eos()}), "");
  }
}

TEST(Utf8, CompletePrefixNeverBreaksACharacter) {
  std::string text = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80z";
  std::vector<std::size_t> starts = {0, 1, 3, 6, 10, 11};
  for (std::size_t n = 0; n <= text.size(); ++n)
    EXPECT_EQ(utf8_complete(text.substr(0, n)), *std::prev(std::upper_bound(starts.begin(), starts.end(), n))) << n;
  // What can never become a character is not waited for.
  for (const std::string bad : {"\x80", "\xFF", "a\xC0", "\xED\xA0", "\xF5\x80", "\xE2\x28", "\xC3\xA9\x80"})
    EXPECT_EQ(utf8_complete(bad), bad.size());
}

}  // namespace rattan::data_test
