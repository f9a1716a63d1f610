#include "rattan/models/load.h"

#include <ATen/ops/equal.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "rattan/base/error.h"
#include "rattan/base/files.h"
#include "rattan/io/checkpoint.h"
#include "tests/infer/tiny_model.h"

namespace rattan::models::load_test {

namespace fs = std::filesystem;
using testing::HasSubstr;

class LoadTest : public testing::Test {
 protected:
  LoadTest() : folder(fs::path(testing::TempDir()) / ("rattan-load-" + std::to_string(getpid()))) {
    fs::remove_all(folder);
    fs::create_directories(folder);
  }
  ~LoadTest() override { fs::remove_all(folder); }

  void save(const fs::path& where) { save_language_model(where, *model, tokenizer.get()); }
  // The message of the InputError that loading throws.
  std::string refusal(const fs::path& where) {
    try {
      load_language_model(where);
    } catch (const InputError& error) {
      return error.what();
    }
    ADD_FAILURE() << where << " should not load";
    return "";
  }
  void edit_config(const std::string& from, const std::string& to) {
    std::string text = read_file(folder / "m/config.json");
    const std::size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << text;
    write_file(folder / "m/config.json", text.replace(at, from.size(), to));
  }

  fs::path folder;
  std::unique_ptr<LanguageModel> model = infer::tiny_model(3);
  std::unique_ptr<Tokenizer> tokenizer = bytes_tokenizer();
};

TEST_F(LoadTest, WhatIsSavedComesBackBitForBit) {
  save(folder / "m");
  const LoadedModel loaded = load_language_model(folder / "m");
  std::map<std::string, at::Tensor> saved;
  model->each_param([&](const std::string& name, nn::Param& p) { saved[name] = p.master(); });
  loaded.model->each_param(
      [&](const std::string& name, nn::Param& p) { EXPECT_TRUE(at::equal(p.master(), saved.at(name))) << name; });
  EXPECT_EQ(loaded.tokenizer->fingerprint(), tokenizer->fingerprint());
  EXPECT_EQ(loaded.model->compute, at::kFloat);
  EXPECT_EQ(loaded.model->config().context, 64);
}

TEST_F(LoadTest, MatricesAreHeldInTheComputingType) {
  save(folder / "m");
  const LoadedModel loaded = load_language_model(folder / "m", {.device = at::kCPU, .compute = at::kBFloat16});
  loaded.model->each_param([&](const std::string& name, nn::Param& p) {
    const bool matrix = p.shape().size() > 1 && !name.starts_with("embed.");
    EXPECT_EQ(p.master().scalar_type(), matrix ? at::kBFloat16 : at::kFloat) << name;
  });
}

TEST_F(LoadTest, ARunFolderGivesItsLatestFinishedCheckpoint) {
  const fs::path checkpoints = folder / "run/checkpoints";
  fs::create_directories(checkpoints);
  for (int64_t step : {5, 20}) write_checkpoint(checkpoints, step, [&](const fs::path& f) { save(f); });
  fs::create_directories(checkpoints / "step-30");  // not DONE
  EXPECT_EQ(load_language_model(folder / "run").folder, checkpoints / "step-20");
  EXPECT_EQ(load_language_model(checkpoints / "step-5").folder, checkpoints / "step-5");
}

TEST_F(LoadTest, WithoutATokenizerThereIsNone) {
  save_language_model(folder / "m", *model, nullptr);
  EXPECT_EQ(load_language_model(folder / "m").tokenizer, nullptr);
}

TEST_F(LoadTest, DamageIsNamed) {
  EXPECT_THAT(refusal(folder / "nowhere"), HasSubstr("does not exist"));
  fs::create_directories(folder / "empty");
  EXPECT_THAT(refusal(folder / "empty"), HasSubstr("config.json"));
  save(folder / "m");
  edit_config("\"d_model\": 32", "\"d_model\": 64");
  EXPECT_THAT(refusal(folder / "m"), HasSubstr("another shape"));
  edit_config("\"d_model\": 64", "\"d_modle\": 64");
  EXPECT_THAT(refusal(folder / "m"), HasSubstr("d_model"));
  save(folder / "m");
  fs::resize_file(folder / "m/model.safetensors", fs::file_size(folder / "m/model.safetensors") / 2);
  EXPECT_THAT(refusal(folder / "m"), HasSubstr("model.safetensors"));
}

TEST_F(LoadTest, AbsurdSizesAreRefusedBeforeMemoryIsAsked) {
  save(folder / "m");
  edit_config("\"vocab_size\": 257", "\"vocab_size\": 1000000000000");
  EXPECT_THAT(refusal(folder / "m"), HasSubstr("another shape"));
}

TEST_F(LoadTest, AnotherVocabularyIsRefused) {
  model = std::make_unique<LanguageModel>(infer::tiny_config("model.vocab_size=100"));
  model->initialize(1);
  save(folder / "m");
  EXPECT_THAT(refusal(folder / "m"), HasSubstr("vocabulary"));
}

TEST(DeviceNames, AreCheckedWithAReason) {
  EXPECT_EQ(device_named("cpu"), at::Device(at::kCPU));
  EXPECT_THROW(device_named("gpu"), InputError);
  EXPECT_THROW(device_named("meta"), InputError);
  EXPECT_THROW(device_named("cuda:77"), InputError);
  EXPECT_THROW(dtype_named("fp8"), InputError) << "a type of products, not of tensors";
  EXPECT_EQ(precision_named("fp8").compute, at::kBFloat16);
  EXPECT_EQ(precision_named("fp8").fp8, ops::Fp8::on);
  EXPECT_EQ(precision_named("fp8_emulated").fp8, ops::Fp8::emulated);
  EXPECT_EQ(precision_named("bf16").fp8, ops::Fp8::off);
  EXPECT_FALSE(precision_named("auto").compute.has_value());
  EXPECT_THROW(precision_named("fp4"), InputError);
  EXPECT_EQ(dtype_named("bf16"), at::kBFloat16);
  EXPECT_FALSE(dtype_named("auto").has_value());
}

}  // namespace rattan::models::load_test
