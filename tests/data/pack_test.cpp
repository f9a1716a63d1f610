#include "rattan/data/pack.h"

#include <gmock/gmock.h>
#include <signal.h>
#include <sys/wait.h>
#include <zlib.h>
#include <zstd.h>

#include <set>

#include "data_test_util.h"
#include "rattan/data/partial_folder.h"

namespace rattan::data_test {

using testing::ElementsAre;
using testing::HasSubstr;

PackConfig config_of(const TempFolder& folder, std::vector<std::string> inputs, const std::string& documents = "file",
                     const std::string& tokenizer_name = "bytes") {
  PackConfig config;
  config.inputs = std::move(inputs);
  config.input.documents = documents;
  config.tokenizer = tokenizer_name;
  config.out = folder / "packed";
  return config;
}

// The documents of a split as texts; checks their stated lengths on the way.
std::vector<std::string> texts(const std::filesystem::path& folder, const std::string& split = "train") {
  Dataset data(folder, split, true);
  std::vector<std::string> out;
  for (int64_t i = 0; i < data.documents(); ++i) {
    Document document = data.document(i);
    std::vector<int64_t> tokens(static_cast<std::size_t>(document.end - document.begin));
    data.read(document.begin, tokens);
    EXPECT_EQ(tokens.back(), data.tokenizer().eos());
    std::vector<int32_t> ids(tokens.begin(), tokens.end());
    out.push_back(data.tokenizer().decode(ids));
    EXPECT_EQ(static_cast<int64_t>(out.back().size()), document.bytes);
  }
  return out;
}

std::string gzip(const std::string& text) {
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&stream, text.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

TEST(Pack, DividesTextIntoDocuments) {
  const std::string text = "one\ntwo\n\n\nthree\r\n\r\nfour\nfive";
  TempFolder folder;
  std::string file = folder.put("in.txt", text);
  auto divided = [&](const char* how) {
    PackConfig config = config_of(folder, {file}, how);
    config.overwrite = true;
    pack(config);
    return texts(config.out);
  };
  EXPECT_THAT(divided("file"), ElementsAre(text));
  EXPECT_THAT(divided("lines"), ElementsAre("one", "two", "three\r", "\r", "four", "five"));
  EXPECT_THAT(divided("blank"), ElementsAre("one\ntwo", "three\r", "four\nfive"));
}

TEST(Pack, ReadsFoldersSortedCompressedFilesAndJsonLines) {
  TempFolder folder;
  std::string long_text = made_up_text(3'000'000, 4);
  folder.put("in/b/2.txt", "second");
  folder.put("in/b/1.txt.gz", gzip("fir") + gzip("st"));  // gzip files may have several members
  folder.put("in/c.txt.zst", zstd(long_text) + zstd(" end"));
  folder.put("in/d.jsonl", "{\"text\": \"caf\\u00e9 \\u0000\", \"id\": 1}\n\n{\"text\": \"\"}\n{\"text\":\"last\"}");
  folder.put("in/e.empty.txt", "");
  folder.put("in/notes.md", "not read");
  PackConfig config = config_of(folder, {(folder / "in").string()});
  PackReport report = pack(config);
  EXPECT_THAT(texts(config.out),
              ElementsAre("first", "second", long_text + " end", std::string("caf\xC3\xA9 \0", 7), "last"));
  EXPECT_EQ(report.files, 5);
  EXPECT_EQ(report.ignored_files, 1);
  EXPECT_EQ(report.empty_documents, 2);
  EXPECT_EQ(report.manifest.splits["train"].documents, 5);
}

// Neither the number of threads nor the cutting of long documents shows in the result.
TEST(Pack, ResultDoesNotDependOnThreads) {
  TempFolder folder;
  tokenizer("bpe").save(folder.path());
  std::string text = made_up_text(5'000'000, 8), no_blanks(1'500'000, 'x');
  std::vector<std::string> inputs = {folder.put("a.txt", text), folder.put("b.txt", no_blanks),
                                     folder.put("c.txt", made_up_text(10'000, 9))};
  std::vector<std::string> files;
  for (int threads : {1, 2, 5}) {
    PackConfig config = config_of(folder, inputs, "file", folder.path().string());
    config.threads = threads;
    config.shard_tokens = 100'000;
    config.overwrite = true;
    pack(config);
    std::string all;
    for (const auto& [name, split] : Manifest::from_json(read_file(config.out / "manifest.json"), "m").splits)
      for (const ShardEntry& shard : split.shards) all += read_file(config.out / shard.file);
    files.push_back(all);
    EXPECT_THAT(texts(config.out), ElementsAre(text, no_blanks, made_up_text(10'000, 9)));
  }
  EXPECT_EQ(files[0], files[1]);
  EXPECT_EQ(files[0], files[2]);
  Dataset data(folder / "packed", "train");
  std::vector<int64_t> tokens(static_cast<std::size_t>(data.document(0).end - 1));
  data.read(0, tokens);
  EXPECT_EQ(std::vector<int32_t>(tokens.begin(), tokens.end()), tokenizer("bpe").encode(text));  // as encoded whole
}

TEST(Pack, HoldsOutWholeDocuments) {
  TempFolder folder;
  std::string lines;
  std::vector<std::string> all;
  for (int i = 0; i < 500; ++i) {
    all.push_back("document " + std::to_string(i));
    lines += all.back() + "\n";
  }
  PackConfig config = config_of(folder, {folder.put("in.txt", lines)}, "lines");
  config.overwrite = true;
  auto run = [&](Holdout holdout) {
    config.holdout = holdout;
    pack(config);
    auto train = texts(config.out), valid = texts(config.out, "valid");
    std::multiset<std::string> both(train.begin(), train.end());
    both.insert(valid.begin(), valid.end());
    EXPECT_EQ(both, std::multiset<std::string>(all.begin(), all.end()));
    return valid;
  };
  EXPECT_EQ(run({.last = 7}), std::vector<std::string>(all.end() - 7, all.end()));
  auto counted = run({.count = 20, .seed = 1});
  EXPECT_EQ(counted.size(), 20u);
  EXPECT_EQ(run({.count = 20, .seed = 1}), counted);
  EXPECT_NE(run({.count = 20, .seed = 2}), counted);
  auto fraction = run({.fraction = 0.1, .seed = 3});
  EXPECT_NEAR(static_cast<double>(fraction.size()), 50, 35);  // five standard deviations of 6.7
  EXPECT_EQ(run({.fraction = 0.1, .seed = 3}), fraction);
  config.holdout = {.last = 500};
  EXPECT_THAT(input_error([&] { pack(config); }), HasSubstr("none is left to train on"));
  config.holdout = {.fraction = 1e-9};
  EXPECT_THAT(input_error([&] { pack(config); }), HasSubstr("hold out a count instead"));
  config.holdout = {.fraction = 0.1, .count = 3};
  EXPECT_THAT(input_error([&] { pack(config); }), HasSubstr("not several"));
  EXPECT_EQ(texts(config.out, "valid"), fraction);  // what failed left the old data alone
}

TEST(Pack, KeepsInvalidUtf8) {
  TempFolder folder;
  tokenizer("unigram").save(folder.path());
  std::string text = std::string("ok \xFF\xFE \0 \xE2\x96", 10) + " more";
  PackConfig config = config_of(folder, {folder.put("in.txt", text)}, "file", folder.path().string());
  pack(config);
  EXPECT_THAT(texts(config.out), ElementsAre(text));
}

TEST(Pack, WrongInputIsRefusedWithFileAndLineAndLeavesNothing) {
  TempFolder folder;
  auto refuses = [&](std::vector<std::string> inputs, const std::string& says) {
    PackConfig config = config_of(folder, std::move(inputs));
    EXPECT_THAT(input_error([&] { pack(config); }), HasSubstr(says));
    EXPECT_FALSE(std::filesystem::exists(folder / "packed"));
    EXPECT_FALSE(std::filesystem::exists(folder / "packed.partial"));
  };
  std::string good = "{\"text\": \"fine\"}\n";
  refuses({folder.put("a.jsonl", good + "{\"text\": \"torn")}, "a.jsonl:2: not a JSON value");
  refuses({folder.put("b.jsonl", good + good + "{\"body\": \"x\", \"id\": 2}\n")},
          "b.jsonl:3: there is no field \"text\"; it has: body, id");
  refuses({folder.put("c.jsonl", "{\"text\": 5}\n")}, "c.jsonl:1: the field \"text\" is not a string");
  refuses({folder.put("d.jsonl", "[1]\n")}, "d.jsonl:1: expected a JSON object");
  refuses({folder.put("e.jsonl", "{\"text\": \"\xFF\"}\n")}, "e.jsonl:1: not a JSON value");
  refuses({folder.put("f.txt.gz", gzip(made_up_text(50'000, 2)).substr(0, 9'000))},
          "f.txt.gz: the gzip data is cut off");
  refuses({folder.put("g.txt.gz", "plain text")}, "g.txt.gz: damaged gzip data");
  refuses({folder.put("h.txt.zst", zstd(made_up_text(50'000, 2)).substr(0, 9'000))},
          "h.txt.zst: the zstd data is cut off");
  refuses({folder.put("i.txt.zst", "plain text")}, "i.txt.zst: damaged zstd data");
  refuses({folder.put("j.txt", "")}, "no text");
  refuses({folder.put("k.md", "text")}, "k.md: the kind of file is not known");
  refuses({(folder / "missing.txt").string()}, "missing.txt: no such file");
  std::filesystem::create_directories(folder / "empty");
  refuses({(folder / "empty").string()}, "no .txt or .jsonl files");
  refuses({}, "no input");
}

TEST(Pack, DoesNotReplaceWhatItDidNotMake) {
  TempFolder folder;
  PackConfig config = config_of(folder, {folder.put("in.txt", "text")});
  folder.put("packed/mine.txt", "precious");
  EXPECT_THAT(input_error([&] { pack(config); }), HasSubstr("--overwrite"));
  config.overwrite = true;
  EXPECT_THAT(input_error([&] { pack(config); }), HasSubstr("there is no manifest.json in it"));
  EXPECT_EQ(read_file(folder / "packed/mine.txt"), "precious");
}

TEST(Pack, TwoProcessesDoNotWriteOneFolder) {
  TempFolder folder;
  PartialFolder first(folder / "packed", false, "manifest.json");
  PackConfig config = config_of(folder, {folder.put("in.txt", "text")});
  EXPECT_THAT(input_error([&] { pack(config); }), HasSubstr("another process"));
}

// Killed at any moment, packing leaves either nothing under the name or all of it; and the next run succeeds.
TEST(Pack, KilledPackingLeavesNothingThatLooksFinished) {
  TempFolder folder;
  PackConfig config = config_of(folder, {folder.put("in.txt", made_up_text(2'000'000, 6))}, "lines");
  config.threads = 1;
  int unfinished = 0;
  for (int attempt = 0; attempt < 12; ++attempt) {
    pid_t child = fork();
    if (child == 0) {
      int64_t calls = 0;  // dies after a growing number of written portions
      config.progress = [&](int64_t) {
        if (calls++ == attempt % 3) kill(getpid(), SIGKILL);
      };
      if (attempt >= 9) config.progress = nullptr;
      try {
        pack(config);
      } catch (...) {
        _exit(1);
      }
      _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) {
      ++unfinished;
      EXPECT_FALSE(std::filesystem::exists(folder / "packed"));
      EXPECT_FALSE(std::filesystem::exists(folder / "packed.partial/manifest.json"));
    } else {
      EXPECT_EQ(WEXITSTATUS(status), 0);
      EXPECT_GT(texts(folder / "packed").size(), 1000u);
      EXPECT_FALSE(std::filesystem::exists(folder / "packed.partial"));
      std::filesystem::remove_all(folder / "packed");
    }
  }
  EXPECT_GT(unfinished, 3);
}

}  // namespace rattan::data_test
