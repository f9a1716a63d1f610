#include "rattan/io/model_folder.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "rattan/base/error.h"
#include "rattan/base/files.h"
#include "rattan/io/checkpoint.h"

namespace rattan::model_folder_test {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

struct Config {
  int64_t width = 4;
  std::string kind = "small";
  void fields(Fields& f) {
    f("width", width, "columns", at_least(1));
    f("kind", kind, "a name");
  }
};

class ModelFolders : public testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::temp_directory_path() / fmt::format("rattan-models-{}", ::getpid());
    fs::create_directories(root_);
  }
  void TearDown() override { fs::remove_all(root_); }

  static std::map<std::string, at::Tensor> tensors() {
    return {{"a", at::arange(8, at::kFloat).view({2, 4})}, {"b", at::arange(4, at::kFloat)}};
  }
  static void save(const fs::path& folder) {
    Config config{7, "large"};
    save_model(folder, [&](Fields& f) { config.fields(f); }, tensors(), {{kVocabularyKey, "bpe:1"}});
  }
  template <class Work>
  static std::string error_of(Work work) {
    try {
      work();
    } catch (const InputError& error) {
      return error.what();
    }
    ADD_FAILURE() << "nothing was thrown";
    return "";
  }
  static std::string opening(const fs::path& folder) {
    return error_of([&] { ModelFolder model(folder); });
  }
  fs::path root_;
};

TEST_F(ModelFolders, SavedModelIsLoaded) {
  save(root_ / "deep" / "m");
  ModelFolder model(root_ / "deep" / "m");
  Config config;
  model.config().read(config);
  EXPECT_EQ(config.width, 7);
  EXPECT_EQ(config.kind, "large");
  EXPECT_EQ(model.vocabulary(), "bpe:1");
  std::map<std::string, at::Tensor> targets = {{"a", at::zeros({2, 4}, at::kDouble)},
                                               {"b", at::zeros({4}, at::kBFloat16).requires_grad_(true)}};
  model.load(targets);
  EXPECT_TRUE(at::equal(targets["a"].to(at::kFloat), tensors()["a"]));
  EXPECT_TRUE(at::equal(targets["b"].detach().to(at::kFloat), tensors()["b"]));
}

TEST_F(ModelFolders, MissingPiecesAreNamed) {
  EXPECT_THAT(opening(root_ / "no"), HasSubstr((root_ / "no").string() + " does not exist"));
  save(root_ / "m");
  fs::rename(root_ / "m" / "config.json", root_ / "config.json");
  EXPECT_THAT(opening(root_ / "m"), HasSubstr("has no config.json"));
  fs::rename(root_ / "config.json", root_ / "m" / "config.json");
  fs::remove(root_ / "m" / "model.safetensors");
  EXPECT_THAT(opening(root_ / "m"), HasSubstr("has no model.safetensors"));
}

TEST_F(ModelFolders, NearbyModelIsOffered) {
  save(root_ / "m");
  EXPECT_THAT(opening(root_ / "m" / "model.safetensors"), HasSubstr("its folder " + (root_ / "m").string()));
  Checkpoint checkpoint = write_checkpoint(root_ / "run" / "checkpoints", 3, [](const fs::path& f) { save(f); });
  EXPECT_THAT(opening(root_ / "run"), HasSubstr(checkpoint.folder.string() + " is one"));
  EXPECT_THAT(opening(root_ / "run" / "checkpoints"), HasSubstr(checkpoint.folder.string() + " is one"));
  EXPECT_NO_THROW(ModelFolder(checkpoint.folder));
}

TEST_F(ModelFolders, DamagedPiecesAreNamed) {
  save(root_ / "m");
  std::string weights = read_file(root_ / "m" / "model.safetensors");
  write_file(root_ / "m" / "model.safetensors", weights.substr(0, weights.size() - 3));
  EXPECT_THAT(opening(root_ / "m"), AllOf(HasSubstr("model.safetensors"), HasSubstr("truncated")));
  write_file(root_ / "m" / "model.safetensors", weights);
  write_file(root_ / "m" / "config.json", "{\n\"width\": ");
  EXPECT_THAT(opening(root_ / "m"), HasSubstr("config.json:2: not valid JSON"));
  write_file(root_ / "m" / "config.json", "{\n\"widht\": 3}");
  EXPECT_THAT(error_of([&] {
                Config config;
                ModelFolder(root_ / "m").config().read(config);
              }),
              AllOf(HasSubstr("config.json:2"), HasSubstr("did you mean 'width'?")));
}

TEST_F(ModelFolders, OtherTensorsAreListedAndNothingIsLoaded) {
  save(root_ / "m");
  ModelFolder model(root_ / "m");
  at::Tensor a = at::zeros({2, 4}, at::kFloat);
  std::map<std::string, at::Tensor> targets = {{"a", a}, {"b", at::zeros({5}, at::kFloat)}};
  for (int i = 0; i < 6; ++i) targets[fmt::format("c{}", i)] = at::zeros({1}, at::kFloat);
  std::string said = error_of([&] { model.load(targets); });
  EXPECT_THAT(said, AllOf(HasSubstr("6 missing: c0, c1, c2, c3 and 2 more"),
                          HasSubstr("1 of another shape: b (found [4], expected [5])"), Not(HasSubstr("unknown"))));
  EXPECT_TRUE(at::equal(a, at::zeros({2, 4}, at::kFloat)));
  EXPECT_THAT(error_of([&] { model.load({{"a", a}}); }), HasSubstr("1 unknown to the model: b"));
}

TEST_F(ModelFolders, OtherVocabulariesAreRefused) {
  EXPECT_NO_THROW(check_vocabulary("m", "bpe:1", 2048, "bpe:1", 2000));
  EXPECT_NO_THROW(check_vocabulary("m", "", 2048, "bpe:2", 2048));
  EXPECT_THAT(error_of([] { check_vocabulary("m", "bpe:1", 2048, "bpe:2", 2048); }),
              AllOf(HasSubstr("m: "), HasSubstr("bpe:1"), HasSubstr("bpe:2")));
  EXPECT_THAT(error_of([] { check_vocabulary("m", "", 256, "bpe:2", 257); }),
              AllOf(HasSubstr("257 tokens"), HasSubstr("knows 256")));
}

TEST_F(ModelFolders, FailedSaveLeavesNothing) {
  auto broken = tensors();
  broken["c"] = at::zeros({1}, at::kComplexFloat);
  Config config;
  auto describe = [&](Fields& f) { config.fields(f); };
  EXPECT_THROW(save_model(root_ / "m", describe, broken), Error);
  EXPECT_FALSE(fs::exists(root_ / "m"));
  save(root_ / "m");
  EXPECT_THROW(save_model(root_ / "m", describe, broken), Error);
  EXPECT_EQ(ModelFolder(root_ / "m").vocabulary(), "bpe:1");
}

}  // namespace rattan::model_folder_test
