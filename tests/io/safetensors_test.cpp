#include "rattan/io/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>

#include "rattan/base/error.h"
#include "rattan/base/random.h"

namespace rattan::safetensors_test {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

std::string file_of(const std::string& header, std::size_t data_bytes, uint64_t announced) {
  std::string out(sizeof announced, '\0');
  std::memcpy(out.data(), &announced, sizeof announced);
  return out + header + std::string(data_bytes, '\x01');
}

std::string file_of(const std::string& header, std::size_t data_bytes) {
  return file_of(header, data_bytes, header.size());
}

// A heap copy of exactly the right size, so that a sanitizer sees any read beyond the end.
SafetensorsView parse(const std::string& file) {
  static std::vector<std::byte> bytes;
  bytes.assign(reinterpret_cast<const std::byte*>(file.data()),
               reinterpret_cast<const std::byte*>(file.data() + file.size()));
  bytes.shrink_to_fit();
  return parse_safetensors(bytes, "x.safetensors");
}

std::string error_of(const std::string& file) {
  try {
    parse(file);
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(), StartsWith("x.safetensors: "));
    return error.what();
  }
  ADD_FAILURE() << "accepted: " << file;
  return "";
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape, int64_t begin,
                  int64_t end) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})", name, dtype, shape, begin, end);
}

TEST(Safetensors, WellFormedFileIsRead) {
  SafetensorsView view = parse(file_of("{" + entry("b", "F32", "[2,3]", 2, 26) + "," + entry("a", "BF16", "[]", 0, 2) +
                                           R"(,"__metadata__":{"format":"pt"}}   )",
                                       26));
  ASSERT_EQ(view.tensors.size(), 2u);
  EXPECT_EQ(view.tensors[0].name, "a");
  EXPECT_EQ(view.tensors[0].shape, Shape{});
  EXPECT_EQ(view.find("b")->shape, (Shape{2, 3}));
  EXPECT_EQ(view.find("b")->type, StoredType::f32);
  EXPECT_EQ(view.find("b")->bytes.size(), 24u);
  EXPECT_EQ(view.find("c"), nullptr);
  EXPECT_EQ(view.metadata.at("format"), "pt");
}

TEST(Safetensors, FileWithoutTensorsAndEmptyTensorsAreFine) {
  EXPECT_TRUE(parse(file_of("{}", 0)).tensors.empty());
  SafetensorsView view = parse(file_of("{" + entry("x", "F32", "[0,5]", 4, 4) + "," + entry("y", "U8", "[4]", 0, 4) +
                                           "," + entry("z", "F32", "[0]", 0, 0) + "}",
                                       4));
  EXPECT_EQ(view.find("x")->bytes.size(), 0u);
}

TEST(Safetensors, TruncatedFilesAreRefused) {
  std::string whole = file_of("{" + entry("a", "F32", "[2]", 0, 8) + "}", 8);
  parse(whole);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    SCOPED_TRACE(size);
    error_of(whole.substr(0, size));
  }
  EXPECT_THAT(error_of(whole.substr(0, whole.size() - 1)), AllOf(HasSubstr("truncated"), HasSubstr("'a'")));
  EXPECT_THAT(error_of(""), HasSubstr("0 bytes"));
}

TEST(Safetensors, HostileHeaderLengthsAreRefused) {
  for (uint64_t length : {UINT64_MAX, UINT64_MAX - 7, uint64_t{1} << 63, uint64_t{100'000'001}}) {
    EXPECT_THAT(error_of(file_of("{}", 0, length)), HasSubstr(fmt::format("{} bytes", length)));
  }
  EXPECT_THAT(error_of(file_of("{}", 0, 3)), HasSubstr("truncated"));
  EXPECT_THAT(error_of(file_of("", 0, 0)), HasSubstr("not valid JSON"));
}

TEST(Safetensors, OverlapsAndGapsAreRefused) {
  auto two = [](int64_t begin, std::size_t bytes) {
    return file_of("{" + entry("a", "U8", "[4]", 0, 4) + "," + entry("b", "U8", "[4]", begin, begin + 4) + "}", bytes);
  };
  parse(two(4, 8));
  EXPECT_THAT(error_of(two(3, 7)), HasSubstr("'a' and 'b' overlap"));
  EXPECT_THAT(error_of(two(0, 4)), HasSubstr("overlap"));
  EXPECT_THAT(error_of(two(5, 9)), HasSubstr("1 bytes before tensor 'b'"));
  EXPECT_THAT(error_of(two(4, 9)), HasSubstr("1 bytes after the last tensor"));
  EXPECT_THAT(error_of(file_of("{" + entry("a", "U8", "[4]", 1, 5) + "}", 5)), HasSubstr("before tensor 'a'"));
}

TEST(Safetensors, ShapesAndOffsetsMustAgree) {
  auto one = [](const std::string& dtype, const std::string& shape, int64_t begin, int64_t end) {
    return error_of(file_of("{" + entry("a", dtype, shape, begin, end) + "}", 8));
  };
  EXPECT_THAT(one("F32", "[3]", 0, 8), AllOf(HasSubstr("'a'"), HasSubstr("takes 12 bytes")));
  EXPECT_THAT(one("F32", "[2]", 8, 0), HasSubstr("backwards"));
  EXPECT_THAT(one("F32", "[4]", 0, 16), HasSubstr("truncated"));
  EXPECT_THAT(one("F32", "[4611686018427387904,4]", 0, 8), HasSubstr("too large"));
  EXPECT_THAT(one("F32", "[0,4611686018427387904,4]", 0, 0), HasSubstr("too large"));
  EXPECT_THAT(one("U8", "[9223372036854775807]", 0, INT64_MAX), HasSubstr("truncated"));
  EXPECT_THAT(one("U8", "[9223372036854775808]", 0, 8), HasSubstr("whole numbers"));
  EXPECT_THAT(one("U8", "[-8]", 0, 8), HasSubstr("whole numbers"));
  EXPECT_THAT(one("U8", "[8.0]", 0, 8), HasSubstr("whole numbers"));
  EXPECT_THAT(one("U8", "[[8]]", 0, 8), HasSubstr("whole numbers"));
  EXPECT_THAT(one("U8", "8", 0, 8), HasSubstr("'shape' cannot be 8"));
  EXPECT_THAT(one("F4", "[8]", 0, 8), HasSubstr("'F4'"));
}

TEST(Safetensors, MalformedHeadersAreRefused) {
  auto header = [](const std::string& text) { return error_of(file_of(text, 0)); };
  EXPECT_THAT(header("[]"), HasSubstr("JSON object"));
  EXPECT_THAT(header("3"), HasSubstr("JSON object"));
  EXPECT_THAT(header("{\"a\":3}"), HasSubstr("'a' must be an object"));
  EXPECT_THAT(header("{\"a\":{}}"), HasSubstr("'a' lacks 'dtype'"));
  EXPECT_THAT(header(R"({"a":{"dtype":"F32","shape":[0]}})"), HasSubstr("lacks 'data_offsets'"));
  EXPECT_THAT(header(R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[0]}})"), HasSubstr("[begin, end]"));
  EXPECT_THAT(header(R"({"a":{"dtype":"F32","shape":[0],"shape":[0]}})"), HasSubstr("'shape' twice"));
  EXPECT_THAT(header(R"({"a":{"dtype":"F32","dtype":"F16"}})"), HasSubstr("'dtype' twice"));
  EXPECT_THAT(header(R"({"a":{"color":1}})"), HasSubstr("'color'"));
  EXPECT_THAT(header(R"({"a":{"dtype":{}}})"), HasSubstr("an object"));
  EXPECT_THAT(header(R"({"__metadata__":{"a":1}})"), HasSubstr("must be a string"));
  EXPECT_THAT(header(R"({"__metadata__":{"a":{}}})"), HasSubstr("must be a string"));
  EXPECT_THAT(header(R"({"__metadata__":{"a":"1","a":"2"}})"), HasSubstr("twice"));
  EXPECT_THAT(header(R"({"__metadata__":{},"__metadata__":{}})"), HasSubstr("twice"));
  EXPECT_THAT(header("{\"a\":"), HasSubstr("not valid JSON"));
  EXPECT_THAT(header("{} {}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(header("{\"\xff\":{}}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(header(std::string(1000000, '[')), HasSubstr("JSON object"));
  std::string twice = entry("a", "U8", "[0]", 0, 0);
  EXPECT_THAT(header("{" + twice + "," + twice + "}"), HasSubstr("'a' appears twice"));
}

// Any single changed byte is either noticed or leaves a file whose views lie inside it.
TEST(Safetensors, RandomDamageNeverEscapesTheFile) {
  std::string whole = file_of(
      "{" + entry("a", "F32", "[2]", 0, 8) + "," + entry("b", "I64", "[1,1]", 8, 16) + R"(,"__metadata__":{"k":"v"}})",
      16);
  Rng rng(7);
  for (int round = 0; round < 20000; ++round) {
    std::string damaged = whole;
    for (uint64_t i = rng.below(3) + 1; i > 0; --i)
      damaged[rng.below(damaged.size())] = static_cast<char>(rng.next_u64());
    try {
      std::size_t total = 0;
      for (const StoredTensor& tensor : parse(damaged).tensors) {
        for (std::byte b : tensor.bytes) total += static_cast<std::size_t>(b);
      }
      EXPECT_GT(total, 0u);
    } catch (const InputError&) {
    }
  }
}

class SafetensorsFiles : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / fmt::format("rattan-safetensors-{}", ::getpid());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  static TensorSource bytes(const std::string& name, StoredType type, Shape shape, std::string content) {
    return {name, type, std::move(shape),
            [content = std::move(content)](const ByteWriter& write) { write(content.data(), content.size()); }};
  }
  fs::path folder_;
};

TEST_F(SafetensorsFiles, WrittenFileReadsBackAlignedAndInStableOrder) {
  auto write = [&](const char* file, bool reversed) {
    std::vector<TensorSource> tensors = {
        bytes("odd", StoredType::u8, {3}, "abc"), bytes("z", StoredType::f64, {1}, "12345678"),
        bytes("a \"quoted\" é", StoredType::i16, {2, 1}, "wxyz"), bytes("none", StoredType::f32, {0, 7}, ""),
        bytes("m", StoredType::f32, {}, "ABCD")};
    if (reversed) std::reverse(tensors.begin(), tensors.end());
    write_safetensors(folder_ / file, std::move(tensors), {{"format", "pt"}, {"step", "3"}});
  };
  write("one", false);
  write("two", true);
  EXPECT_EQ(read_file(folder_ / "one"), read_file(folder_ / "two"));
  SafetensorsFile file(folder_ / "one");
  EXPECT_EQ(file.metadata().at("step"), "3");
  ASSERT_EQ(file.tensors().size(), 5u);
  for (const StoredTensor& tensor : file.tensors()) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.bytes.data()) % bytes_of(tensor.type), 0u) << tensor.name;
  }
  EXPECT_EQ(std::memcmp(file.find("a \"quoted\" é")->bytes.data(), "wxyz", 4), 0);
  EXPECT_EQ(std::memcmp(file.find("odd")->bytes.data(), "abc", 3), 0);
}

TEST_F(SafetensorsFiles, WrongSourcesLeaveNoFile) {
  fs::path path = folder_ / "x";
  auto short_one = bytes("a", StoredType::f32, {2}, "1234");
  auto a = bytes("a", StoredType::u8, {1}, "1"), reserved = bytes("__metadata__", StoredType::u8, {1}, "1");
  auto not_text = bytes("\xff", StoredType::u8, {1}, "1");
  EXPECT_THROW(write_safetensors(path, {short_one}), Error);
  EXPECT_THROW(write_safetensors(path, {a, a}), Error);
  EXPECT_THROW(write_safetensors(path, {reserved}), Error);
  EXPECT_THROW(write_safetensors(path, {not_text}), Error);
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_F(SafetensorsFiles, MissingAndEmptyFilesAreNamed) {
  EXPECT_THROW(SafetensorsFile(folder_ / "no"), InputError);
  write_file(folder_ / "empty", "");
  try {
    SafetensorsFile file(folder_ / "empty");
    ADD_FAILURE() << "accepted an empty file";
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(), StartsWith((folder_ / "empty").string()));
  }
}

}  // namespace rattan::safetensors_test
