#include "rattan/data/stream.h"

#include <gmock/gmock.h>

#include <map>
#include <set>

#include "data_test_util.h"
#include "rattan/data/dataset.h"
#include "rattan/data/pack.h"
#include "rattan/data/permutation.h"

namespace rattan::data_test {

using testing::HasSubstr;

// Packs documents of the given lengths in bytes (tokens are bytes, plus </s> each); no two alike.
std::string packed(const TempFolder& folder, const std::string& name, const std::vector<int>& lengths,
                   int64_t shard_tokens = 1 << 28) {
  std::string lines;
  Rng rng(lengths.size(), 3);
  for (int length : lengths) {
    for (int i = 0; i < length; ++i) lines += static_cast<char>('a' + rng.below(26));
    lines += "\n";
  }
  PackConfig config;
  config.inputs = {folder.put(name + ".txt", lines)};
  config.input.documents = "lines";
  config.tokenizer = "bytes";
  config.out = folder / name;
  config.shard_tokens = shard_tokens;
  pack(config);
  return (folder / name).string();
}

std::vector<int64_t> all_tokens(const std::string& path) {
  Dataset data(path, "train");
  std::vector<int64_t> tokens(static_cast<std::size_t>(data.tokens()));
  data.read(0, tokens);
  return tokens;
}

StreamConfig config_of(std::vector<StreamSource> sources, const std::string& layout, int64_t T, int64_t B) {
  StreamConfig config;
  config.sources = std::move(sources);
  config.layout = layout;
  config.seq_len = T;
  config.batch = B;
  return config;
}

const std::vector<int> kLengths = {5, 1, 30, 7, 12, 100, 3, 3, 64, 2, 9, 41};

void expect_same(const Batch& a, const Batch& b) {
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.targets, b.targets);
  EXPECT_EQ(a.target_count, b.target_count);
  EXPECT_EQ(a.original_bytes, b.original_bytes);
  EXPECT_EQ(a.epoch, b.epoch);
  ASSERT_EQ(a.spans.size(), b.spans.size());
  for (std::size_t i = 0; i < a.spans.size(); ++i)
    EXPECT_EQ(std::tuple(a.spans[i].row, a.spans[i].begin, a.spans[i].end, a.spans[i].document),
              std::tuple(b.spans[i].row, b.spans[i].begin, b.spans[i].end, b.spans[i].document));
}

TEST(Stream, ConcatIsAFixedGridOfWindowsWithTheLossMaskedAfterEndOfDocument) {
  TempFolder folder;
  std::string path = packed(folder, "d", kLengths, 50);  // several shards: windows cross their borders
  std::vector<int64_t> all = all_tokens(path);
  auto config = config_of({{path}}, "concat", 16, 3);
  config.sequential = true;
  TokenStream stream(config);
  std::size_t at = 0;
  double bytes = 0;
  while (auto batch = stream.next()) {
    EXPECT_TRUE(batch->spans.empty());
    for (std::size_t i = 0; i < batch->tokens.size(); ++i, ++at) {
      if (at + 1 >= all.size()) {  // padding of the last window
        EXPECT_EQ(batch->targets[i], -100);
        continue;
      }
      EXPECT_EQ(batch->tokens[i], all[at]);
      EXPECT_EQ(batch->targets[i], all[at] == 256 ? -100 : all[at + 1]) << at;
    }
    bytes += batch->original_bytes;
  }
  EXPECT_GE(at, all.size() - 1);
  int total = 0;
  for (int n : kLengths) total += n;
  // Every byte is a target but the first of each document, which follows nothing or an end of document.
  EXPECT_EQ(bytes, total - static_cast<int>(kLengths.size()));
}

TEST(Stream, TrainingWindowsComeOnceAnEpochInANewOrder) {
  TempFolder folder;
  std::string path = packed(folder, "d", std::vector<int>(40, 25));
  std::vector<int64_t> all = all_tokens(path);
  const int64_t T = 16, windows = (static_cast<int64_t>(all.size()) - 1) / T;
  TokenStream stream(config_of({{path}}, "concat", T, 5));
  std::map<std::vector<int64_t>, int64_t> place;
  for (int64_t w = 0; w < windows; ++w) place[{all.begin() + w * T, all.begin() + (w + 1) * T}] = w;
  ASSERT_EQ(static_cast<int64_t>(place.size()), windows);
  std::vector<int64_t> order;
  double epoch = 0;
  while (static_cast<int64_t>(order.size()) < 3 * windows) {
    auto batch = stream.next();
    ASSERT_TRUE(batch);
    EXPECT_EQ(batch->B, 5);  // batches go on across the end of an epoch
    EXPECT_GT(batch->epoch, epoch);
    epoch = batch->epoch;
    for (int64_t row = 0; row < 5; ++row)
      order.push_back(place.at({batch->tokens.begin() + row * T, batch->tokens.begin() + (row + 1) * T}));
  }
  std::vector<std::vector<int64_t>> epochs;
  for (int e = 0; e < 3; ++e) {
    epochs.emplace_back(order.begin() + e * windows, order.begin() + (e + 1) * windows);
    EXPECT_EQ(std::set<int64_t>(epochs[e].begin(), epochs[e].end()).size(), static_cast<std::size_t>(windows));
    EXPECT_FALSE(std::is_sorted(epochs[e].begin(), epochs[e].end()));
  }
  EXPECT_NE(epochs[0], epochs[1]);
  EXPECT_NE(epochs[1], epochs[2]);
}

TEST(Stream, DocumentsStandInSegmentsOfTheirOwn) {
  TempFolder folder;
  std::string path = packed(folder, "d", kLengths, 60);
  Dataset data(path, "train");
  for (bool sequential : {true, false}) {
    auto config = config_of({{path}}, "documents", 32, 3);
    config.sequential = sequential;
    config.epochs = 1;
    TokenStream stream(config);
    std::map<int64_t, std::vector<int64_t>> seen;  // by document: the inputs and, last, the final target
    std::map<int64_t, int64_t> covered;
    double bytes = 0;
    while (auto batch = stream.next()) {
      std::vector<bool> used(batch->tokens.size(), false);
      int64_t row = -1, end = 0, targets = 0;
      for (const Span& span : batch->spans) {
        EXPECT_GE(span.begin, span.row == row ? end : 0);  // ordered, apart from one another
        row = span.row, end = span.end;
        Document document = data.document(span.document);
        std::vector<int64_t> tokens(static_cast<std::size_t>(document.end - document.begin));
        data.read(document.begin, tokens);
        for (int64_t i = span.begin; i < span.end; ++i) {
          auto at = static_cast<std::size_t>(span.row * batch->T + i);
          auto from = static_cast<std::size_t>(span.offset + i - span.begin);
          EXPECT_EQ(batch->tokens[at], tokens[from]);
          EXPECT_EQ(batch->targets[at], tokens[from + 1]);
          used[at] = true;
          ++targets;
        }
        EXPECT_TRUE(span.end - span.begin <= 32 && span.offset % 32 == 0);
        covered[span.document] += span.end - span.begin;
      }
      for (std::size_t i = 0; i < used.size(); ++i)
        EXPECT_TRUE(used[i] || (batch->tokens[i] == 0 && batch->targets[i] == -100));
      EXPECT_EQ(batch->target_count, targets);
      bytes += batch->original_bytes;
    }
    double expected = 0;
    for (std::size_t d = 0; d < kLengths.size(); ++d) {
      EXPECT_EQ(covered[static_cast<int64_t>(d)], kLengths[d]);  // inputs: all but </s>
      expected += kLengths[d] - 1;
    }
    EXPECT_EQ(bytes, expected);
  }
}

TEST(Stream, ContinuesExactlyFromAnyPosition) {
  TempFolder folder;
  std::string a = packed(folder, "a", kLengths), b = packed(folder, "b", std::vector<int>(30, 20));
  for (const char* layout : {"concat", "documents"})
    for (bool sequential : {false, true}) {
      auto config = config_of({{a, 1.0}, {b, 3.0}}, layout, 16, 2);
      config.sequential = sequential;
      config.seed = 11;
      config.epochs = 3;
      TokenStream whole(config);
      for (int step = 0;; ++step) {
        std::string position = whole.position();
        auto expected = whole.next();
        TokenStream again(config);
        again.restore(position);
        for (int ahead = 0; ahead < 2; ++ahead) {
          auto got = again.next();
          ASSERT_EQ(got.has_value(), expected.has_value());
          if (!got) break;
          expect_same(*got, *expected);
          if (ahead == 0) {
            EXPECT_EQ(again.position(), whole.position());
            TokenStream peek(config);
            peek.restore(whole.position());
            expected = peek.next();
            if (!expected) break;
          }
        }
        if (!expected) break;
        ASSERT_LT(step, 1000);
      }
    }
}

// One and the same position gives the same data, whatever the batch: rows are drawn one by one.
TEST(Stream, RowsDoNotDependOnTheBatch) {
  TempFolder folder;
  std::string path = packed(folder, "d", kLengths);
  TokenStream two(config_of({{path}}, "concat", 8, 2)), four(config_of({{path}}, "concat", 8, 4));
  auto first = two.next(), second = two.next(), both = four.next();
  first->tokens.insert(first->tokens.end(), second->tokens.begin(), second->tokens.end());
  EXPECT_EQ(first->tokens, both->tokens);
  EXPECT_EQ(two.position(), four.position());
}

TEST(Stream, SeedDecidesTheOrder) {
  TempFolder folder;
  std::string path = packed(folder, "d", std::vector<int>(40, 25));
  auto config = config_of({{path}}, "concat", 16, 8);
  TokenStream one(config), same(config);
  config.seed = 1;
  TokenStream other(config);
  auto first = one.next();
  EXPECT_EQ(first->tokens, same.next()->tokens);
  EXPECT_NE(first->tokens, other.next()->tokens);
}

// The shares of tokens follow the weights in both layouts, though the documents' lengths differ tenfold. 4,000
// draws have a standard deviation of at most 0.008 in the share; 0.05 is more than six of them. Documents of
// one source are all alike, so that no other noise comes in.
TEST(Stream, MixtureFollowsTheWeights) {
  TempFolder folder;
  std::string a = packed(folder, "a", std::vector<int>(50, 10)), b = packed(folder, "b", std::vector<int>(50, 100));
  std::vector<int64_t> of_a = all_tokens(a);
  for (const char* layout : {"concat", "documents"}) {
    TokenStream stream(config_of({{a, 1.0}, {b, 3.0}}, layout, 128, 16));
    std::set<std::vector<int64_t>> windows;
    for (std::size_t w = 0; w + 128 < of_a.size(); w += 128)
      windows.insert({of_a.begin() + static_cast<long>(w), of_a.begin() + static_cast<long>(w) + 128});
    double from_a = 0, total = 0;
    for (int step = 0; step < 250; ++step) {
      auto batch = stream.next();
      for (const Span& span : batch->spans) {
        from_a += span.source == 0 ? static_cast<double>(span.end - span.begin) : 0;
        total += static_cast<double>(span.end - span.begin);
      }
      for (int64_t row = 0; batch->spans.empty() && row < batch->B; ++row) {
        from_a += static_cast<double>(
            windows.count({batch->tokens.begin() + row * 128, batch->tokens.begin() + (row + 1) * 128}));
        ++total;
      }
    }
    EXPECT_NEAR(from_a / total, 0.25, 0.05) << layout;
  }
}

TEST(Stream, EndsAfterTheEpochsOfEverySource) {
  TempFolder folder;
  std::string a = packed(folder, "a", std::vector<int>(20, 7)), b = packed(folder, "b", std::vector<int>(5, 7));
  for (const char* layout : {"concat", "documents"}) {
    auto config = config_of({{a}, {b}}, layout, 8, 3);
    config.epochs = 2;
    TokenStream stream(config);
    int64_t targets = 0;
    double epoch = 0;
    while (auto batch = stream.next()) {
      EXPECT_LE(batch->B, 3);
      targets += batch->target_count;
      epoch = batch->epoch;
    }
    EXPECT_EQ(epoch, 2.0);
    // 8 tokens a document: one window or segment of 7 targets each; training's grid drops the incomplete last.
    EXPECT_EQ(targets, std::string(layout) == "documents" ? 2 * 25 * 7 : 2 * (19 + 4) * 7);
    EXPECT_FALSE(stream.next());
  }
}

TEST(Stream, DataShorterThanAWindowIsPadded) {
  TempFolder folder;
  std::string path = packed(folder, "d", {4});
  TokenStream stream(config_of({{path}}, "concat", 16, 1));
  auto batch = stream.next();
  EXPECT_EQ(batch->target_count, 4);
  EXPECT_THAT(std::vector<int64_t>(batch->targets.begin() + 4, batch->targets.end()), testing::Each(-100));
  TokenStream single(config_of({{path}}, "concat", 1, 2));  // T = 1 is a window too
  EXPECT_EQ(single.next()->tokens.size(), 2u);
}

TEST(Stream, WrongConfigsAndPositionsAreRefused) {
  TempFolder folder;
  std::string path = packed(folder, "d", kLengths);
  auto refuses = [&](auto change, const char* says) {
    StreamConfig config = config_of({{path}}, "concat", 16, 2);
    change(config);
    EXPECT_THAT(input_error([&] { TokenStream stream(config); }), HasSubstr(says));
  };
  refuses([](StreamConfig& c) { c.sources.clear(); }, "no sources");
  refuses([](StreamConfig& c) { c.layout = "rows"; }, "concat or documents");
  refuses([](StreamConfig& c) { c.seq_len = 0; }, "sequence length");
  refuses([](StreamConfig& c) { c.batch = 0; }, "batch");
  refuses([](StreamConfig& c) { c.batch = int64_t{1} << 40; }, "batch");
  refuses([](StreamConfig& c) { c.epochs = -1; }, "epochs");
  refuses([](StreamConfig& c) { c.split = "test"; }, "there is no split \"test\" in this data; it has: train");
  refuses([](StreamConfig& c) { c.sources[0].weight = 0; }, "weight");
  refuses([](StreamConfig& c) { c.sources[0].path = "/nowhere/at/all"; }, "/nowhere/at/all");
  TokenStream stream(config_of({{path}}, "concat", 16, 2));
  std::string good = stream.position();
  for (const std::string& bad :
       {std::string(""), std::string("{}"), std::string("[1]"), good.substr(0, good.size() / 2),
        std::string(good).replace(good.find("\"index\":0"), 9, "\"index\":9999999")})
    EXPECT_THAT(input_error([&] { stream.restore(bad); }), HasSubstr("damaged data position")) << bad;
  EXPECT_EQ(stream.position(), good);
  TokenStream other(config_of({{path}}, "concat", 17, 2));
  EXPECT_THAT(input_error([&] { other.restore(good); }), HasSubstr("other data"));
}

TEST(Permutation, IsOneForEverySizeAndMixes) {
  for (int64_t n : {1, 2, 3, 5, 16, 17, 1000}) {
    Permutation p(n, 4, 9);
    std::set<int64_t> image;
    for (int64_t i = 0; i < n; ++i) image.insert(p(i));
    EXPECT_EQ(static_cast<int64_t>(image.size()), n);
    EXPECT_TRUE(*image.begin() == 0 && *image.rbegin() == n - 1);
  }
  // The mean of |p(i) - i| over a uniform permutation is n/3; its spread over seeds at n = 1000 is about 7.
  Permutation p(1000, 1, 2);
  double distance = 0;
  for (int64_t i = 0; i < 1000; ++i) distance += static_cast<double>(std::abs(p(i) - i)) / 1000;
  EXPECT_NEAR(distance, 333, 40);
}

}  // namespace rattan::data_test
