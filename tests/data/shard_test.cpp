#include "rattan/data/shard.h"

#include <gmock/gmock.h>

#include "data_test_util.h"
#include "rattan/data/checksum.h"
#include "rattan/data/dataset.h"
#include "rattan/data/pack.h"
#include "rattan/data/shard_header.h"

namespace rattan::data_test {

using testing::AnyOf;
using testing::HasSubstr;

std::string write_shard(const std::filesystem::path& path, int64_t vocab_size,
                        const std::vector<std::vector<int32_t>>& documents) {
  ShardWriter writer(path, vocab_size);
  for (const auto& ids : documents) {
    writer.append(ids);
    writer.end_document(static_cast<int64_t>(ids.size()) * 3);
  }
  writer.close();
  return read_file(path);
}

TEST(Shard, HoldsDocumentsOfEitherWidth) {
  for (int64_t vocab : {int64_t{1} << 16, (int64_t{1} << 16) + 1}) {
    TempFolder folder;
    int32_t top = static_cast<int32_t>(vocab - 1);
    write_shard(folder / "s.shard", vocab, {{0, 1, top}, {7}, {top, 5}});
    Shard shard(folder / "s.shard", true);
    EXPECT_EQ(shard.tokens(), 6);
    EXPECT_EQ(shard.documents(), 3);
    EXPECT_EQ(shard.bytes(), 18);
    std::vector<int64_t> ids(4);
    shard.read(1, ids);
    EXPECT_EQ(ids, (std::vector<int64_t>{1, top, 7, top}));
    EXPECT_EQ(shard.document(1).begin, 3);
    EXPECT_EQ(shard.document(2).end, 6);
    for (int64_t token = 0; token < 6; ++token) EXPECT_EQ(shard.document_at(token), token < 3 ? 0 : token < 4 ? 1 : 2);
    std::vector<int64_t> more(3);
    EXPECT_THAT(input_error([&] { shard.read(4, more); }), HasSubstr("tokens 4 to 7"));
    EXPECT_THAT(input_error([&] { shard.document(3); }), HasSubstr("document 3"));
  }
}

TEST(Shard, AnyCutIsSeenAtOnceAndAnyChangedByteByVerification) {
  TempFolder folder;
  std::string good = write_shard(folder / "s.shard", 300, {{1, 2, 3}, {4, 5, 299}});
  for (std::size_t size = 0; size < good.size(); ++size)
    EXPECT_THAT(input_error([&] { Shard shard(folder.put("cut.shard", good.substr(0, size))); }),
                HasSubstr("cut.shard"))
        << size;
  EXPECT_THAT(input_error([&] { Shard shard(folder.put("long.shard", good + "x")); }), HasSubstr("size"));
  for (std::size_t at = 0; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x10);
    EXPECT_THAT(input_error([&] { Shard shard(folder.put("bad.shard", bad), true); }), HasSubstr("bad.shard")) << at;
  }
  EXPECT_THAT(input_error([&] { Shard shard(folder / "none.shard"); }), HasSubstr("none.shard"));
}

// A writer of another program may sign nonsense: huge counts, and an index that runs backwards.
TEST(Shard, HostileHeadersWithRightChecksumsAreRefused) {
  TempFolder folder;
  std::string good = write_shard(folder / "s.shard", 300, {{1, 2, 3}, {4, 5, 299}});
  auto forged = [&](auto change) {
    std::string bad = good;
    ShardHeader header;
    std::memcpy(&header, bad.data(), sizeof header);
    change(header, bad);
    header.checksum = checksum(std::string_view(bad).substr(sizeof header));
    header.own_checksum = header.make_checksum();
    std::memcpy(bad.data(), &header, sizeof header);
    return input_error([&] { Shard shard(folder.put("bad.shard", bad), true); });
  };
  EXPECT_THAT(forged([](ShardHeader& h, std::string&) { h.tokens = UINT64_MAX / 2; }), HasSubstr("damaged"));
  EXPECT_THAT(forged([](ShardHeader& h, std::string&) { h.documents = uint64_t{1} << 60; }), HasSubstr("damaged"));
  EXPECT_THAT(forged([](ShardHeader& h, std::string&) { h.id_bytes = 0; }), HasSubstr("damaged"));
  EXPECT_THAT(forged([](ShardHeader& h, std::string&) { h.vocab_size = 299; }), HasSubstr("id 299"));
  EXPECT_THAT(forged([](ShardHeader& h, std::string&) { h.version = 2; }), HasSubstr("version 2"));
  EXPECT_THAT(forged([](ShardHeader&, std::string& s) { s[s.size() - 32] = 50; }), HasSubstr("damaged"));
}

TEST(Dataset, DamageIsSeen) {
  TempFolder folder;
  PackConfig config;
  config.inputs = {folder.put("in.txt", made_up_text(5'000, 3))};
  config.tokenizer = "bytes";
  config.out = folder / "d";
  pack(config);
  std::string manifest = read_file(folder / "d/manifest.json"), shard = read_file(folder / "d/train-00000.shard");
  auto open = [&](bool verify = false) { return input_error([&] { Dataset data(folder / "d", "train", verify); }); };
  auto swapped = [&](const std::string& from, const std::string& to) {
    std::string text = manifest;
    text.replace(text.find(from), from.size(), to);
    folder.put("d/manifest.json", text);
    std::string said = open();
    folder.put("d/manifest.json", manifest);
    return said;
  };
  EXPECT_THAT(swapped("\"eos\": 256", "\"eos\": 3"), HasSubstr("end of document 3"));
  EXPECT_THAT(swapped("bytes:257", "bpe:1234"), HasSubstr("another vocabulary"));
  EXPECT_THAT(swapped("train-00000.shard", "../../etc/passwd"), HasSubstr("not the name of a shard"));
  EXPECT_THAT(swapped("\"documents\": 1", "\"documents\": -1"), HasSubstr("documents"));
  EXPECT_THAT(swapped("{", ""), HasSubstr("not JSON"));
  EXPECT_THAT(swapped("\"splits\"", "\"parts\""), HasSubstr("\"splits\" is missing"));
  shard[100] ^= 1;
  folder.put("d/train-00000.shard", shard);
  EXPECT_THAT(open(true), HasSubstr("checksum"));
  folder.put("d/train-00000.shard", shard.substr(0, 200));
  EXPECT_THAT(open(), HasSubstr("size does not fit"));
  std::filesystem::remove(folder / "d/train-00000.shard");
  EXPECT_THAT(open(), HasSubstr("train-00000.shard"));
  std::filesystem::remove(folder / "d/manifest.json");
  EXPECT_THAT(open(), HasSubstr("not packed data"));
}

// Values of the published algorithm; the longer input takes the 32-byte stripes.
TEST(Checksum, IsXxh64InAnyPortions) {
  EXPECT_EQ(checksum(""), 0xEF46DB3751D8E999u);
  EXPECT_EQ(checksum("a"), 0xD24EC4F1A98C6E5Bu);
  EXPECT_EQ(checksum("abc"), 0x44BC2CF5AD770999u);
  EXPECT_EQ(checksum("Nobody inspects the spammish repetition"), 0xFBCEA83C8A378BF1u);
  std::string text = made_up_text(1000, 1);
  for (std::size_t portion : {1, 7, 32, 33, 100}) {
    Checksum sum;
    for (std::size_t at = 0; at < text.size(); at += portion)
      sum.add(text.data() + at, std::min(portion, text.size() - at));
    EXPECT_EQ(sum.value(), checksum(text));
  }
}

}  // namespace rattan::data_test
