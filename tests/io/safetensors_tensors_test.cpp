#include "rattan/io/safetensors_tensors.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>

#include "rattan/base/error.h"

namespace rattan::safetensors_tensors_test {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

class SafetensorsTensors : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / fmt::format("rattan-tensors-{}", ::getpid());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path folder_;
};

bool same_bytes(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() &&
         (a.numel() == 0 || std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0);
}

TEST_F(SafetensorsTensors, EveryTypeAndShapeReadsBackBitForBit) {
  std::map<std::string, at::Tensor> tensors;
  for (auto type : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kFloat8_e4m3fn, at::kFloat8_e5m2, at::kLong,
                    at::kInt, at::kShort, at::kChar, at::kUInt64, at::kUInt32, at::kUInt16, at::kByte, at::kBool}) {
    int index = 0;
    for (const std::vector<int64_t>& shape : {std::vector<int64_t>{}, {1}, {3, 5}, {0}, {2, 0, 3}, {1, 1, 2, 1, 7}}) {
      at::Tensor tensor = at::empty(shape, at::TensorOptions().dtype(type));
      // Arbitrary bits, NaN payloads among them; booleans only take 0 and 1.
      auto bytes = static_cast<unsigned char*>(tensor.mutable_data_ptr());
      for (std::size_t i = 0; i < tensor.nbytes(); ++i) bytes[i] = (i * 151 + 67) % (type == at::kBool ? 2 : 256);
      tensors[fmt::format("{}.{}", c10::toString(type), index++)] = tensor;
    }
  }
  save_tensors(folder_ / "x", tensors, {{"a", "b"}});
  auto again = load_tensors(folder_ / "x");
  ASSERT_EQ(again.size(), tensors.size());
  for (const auto& [name, tensor] : tensors) EXPECT_TRUE(same_bytes(again.at(name), tensor)) << name;
  EXPECT_EQ(SafetensorsFile(folder_ / "x").metadata().at("a"), "b");
}

TEST_F(SafetensorsTensors, StridesAndGradientsDoNotMatter) {
  at::Tensor base = at::arange(12, at::kFloat).view({3, 4});
  at::Tensor leaf = at::zeros({2}, at::kFloat).requires_grad_(true);
  save_tensors(folder_ / "x", {{"t", base.t()}, {"slice", base.slice(1, 1, 3)}, {"leaf", leaf}});
  auto again = load_tensors(folder_ / "x");
  EXPECT_TRUE(at::equal(again.at("t"), base.t()));
  EXPECT_TRUE(at::equal(again.at("slice"), base.slice(1, 1, 3)));
  EXPECT_FALSE(again.at("leaf").requires_grad());
}

TEST_F(SafetensorsTensors, LoadIntoConvertsAndKeepsTheTarget) {
  at::Tensor stored = at::arange(6, at::kFloat).view({2, 3}).to(at::kBFloat16);
  save_tensors(folder_ / "x", {{"w", stored}});
  SafetensorsFile file(folder_ / "x");
  at::Tensor target = at::zeros({2, 3}, at::kFloat).requires_grad_(true);
  load_into(target, *file.find("w"), file.source());
  EXPECT_TRUE(at::equal(target.detach(), stored.to(at::kFloat)));
  EXPECT_TRUE(target.requires_grad());
  try {
    load_into(at::zeros({3, 2}, at::kFloat), *file.find("w"), file.source());
    ADD_FAILURE() << "accepted another shape";
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("'w'"), HasSubstr("[2, 3], expected [3, 2]")));
  }
}

TEST_F(SafetensorsTensors, BooleanBytesAreChecked) {
  std::byte two{2};
  StoredTensor stored{"flag", StoredType::boolean, {1}, {&two, 1}};
  EXPECT_THROW(to_tensor(stored), InputError);
}

TEST_F(SafetensorsTensors, TypesTheFormatLacksAreRefused) {
  at::Tensor complex = at::zeros({2}, at::kComplexFloat);
  EXPECT_THROW(save_tensors(folder_ / "x", {{"c", complex}}), Error);
  EXPECT_THROW(save_tensors(folder_ / "x", {{"c", at::Tensor()}}), Error);
  EXPECT_TRUE(fs::is_empty(folder_));
}

}  // namespace rattan::safetensors_tensors_test
