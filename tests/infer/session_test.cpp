// Saved conversations: whole and of this model, or refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "rattan/base/error.h"
#include "rattan/base/files.h"
#include "rattan/infer/engine/fingerprint.h"
#include "rattan/io/safetensors_tensors.h"
#include "tests/infer/engine_tools.h"

namespace rattan::infer::session_test {

class SessionTest : public testing::Test {
 protected:
  void SetUp() override {
    Engine engine(*model, *tokenizer, small_engine(true));
    engine.save(tokens, path, {{"title", "a talk"}});
    content = read_file(path);
  }
  void TearDown() override { std::filesystem::remove(path); }

  std::string refusal(models::LanguageModel& of) {
    Engine engine(of, *tokenizer, small_engine(true));
    try {
      engine.restore(path);
    } catch (const InputError& error) {
      EXPECT_EQ(engine.stats().cache_bytes, 0) << "something was restored";
      return error.what();
    }
    return "";
  }

  std::unique_ptr<models::LanguageModel> model = tiny_model();
  std::unique_ptr<Tokenizer> tokenizer = bytes_tokenizer();
  std::vector<int32_t> tokens = tokenizer->encode("In the beginning God created");
  std::string path = testing::TempDir() + "rattan-refused-" + std::to_string(getpid()), content;
};

TEST_F(SessionTest, SavedTwiceTheBytesAreTheSame) {
  Engine engine(*model, *tokenizer, small_engine(true));
  Engine::Notes notes;
  EXPECT_EQ(engine.restore(path, &notes), tokens);
  EXPECT_EQ(notes.at("title"), "a talk");
  const std::string again = path + ".again";
  engine.save(tokens, again, notes);
  EXPECT_EQ(engine.stats().prompt_tokens, 0u) << "restored states need no reading";
  EXPECT_EQ(read_file(again), content);
  std::filesystem::remove(again);
}

TEST_F(SessionTest, TruncatedFilesAreRefusedAtEveryLength) {
  for (std::size_t n : {std::size_t{0}, std::size_t{7}, std::size_t{64}, content.size() / 2, content.size() - 1}) {
    write_file(path, content.substr(0, n));
    EXPECT_NE(refusal(*model), "") << n;
  }
}

TEST_F(SessionTest, AChangedByteIsNoticed) {
  content[content.size() - 5] = static_cast<char>(content[content.size() - 5] ^ 1);
  write_file(path, content);
  EXPECT_THAT(refusal(*model), testing::HasSubstr("checksum"));
}

TEST_F(SessionTest, ForeignFilesAreRefused) {
  EXPECT_THAT(refusal(*tiny_model(2)), testing::HasSubstr("another model"));
  auto tensors = load_tensors(path);
  save_tensors(path, tensors, {{"format", "pt"}});
  EXPECT_THAT(refusal(*model), testing::HasSubstr("not a saved conversation"));
}

// The sum of a few values of each parameter would do for other seeds, not for a training that went on.
TEST_F(SessionTest, AModelThatDiffersInOneLateValueIsRefused) {
  const auto other = tiny_model();
  EXPECT_EQ(fingerprint(*other), fingerprint(*model)) << "equal values and settings";
  other->each_param([&](const std::string& name, nn::Param& param) {
    float& last = param.master().data_ptr<float>()[param.numel() - 1];
    const float value = last;
    last = std::nextafter(value, 2.0f);
    EXPECT_THAT(refusal(*other), testing::HasSubstr("another model")) << name;
    last = value;
  });
  EXPECT_NO_THROW(Engine(*other, *tokenizer, small_engine(true)).restore(path));
}

TEST_F(SessionTest, AModelThatComputesDifferentlyFromEqualValuesIsRefused) {
  models::LanguageModel other(tiny_config("model.norm_eps=1e-5"));
  other.initialize(1);
  EXPECT_THAT(refusal(other), testing::HasSubstr("another model"));
}

TEST_F(SessionTest, RestoringNeedsTheCache) {
  EngineConfig config = small_engine(true);
  config.prefix_cache = false;
  Engine engine(*model, *tokenizer, config);
  EXPECT_THROW(engine.restore(path), InputError);
}

}  // namespace rattan::infer::session_test
