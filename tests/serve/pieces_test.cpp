// The small parts of the server.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <numeric>
#include <thread>

#include "rattan/base/error.h"
#include "rattan/base/files.h"
#include "rattan/serve/api_keys.h"
#include "rattan/serve/chat_template.h"
#include "rattan/serve/memory_size.h"
#include "rattan/serve/task_pool.h"
#include "rattan/serve/token_memory.h"

namespace rattan::serve {

using testing::HasSubstr;

class FolderTest : public testing::Test {
 protected:
  FolderTest()
      : folder(std::filesystem::path(testing::TempDir()) /
               (std::string("rattan_serve_") + testing::UnitTest::GetInstance()->current_test_info()->name())) {
    std::filesystem::create_directories(folder);
  }
  ~FolderTest() override { std::filesystem::remove_all(folder); }
  std::filesystem::path folder;
};
using ChatTemplateTest = FolderTest;
using ApiKeysTest = FolderTest;

TEST_F(ChatTemplateTest, OfAFolder) {
  const std::vector<Message> messages = {{"system", "S"}, {"user", "U"}, {"assistant", "A"}, {"user", "V"}};
  auto joined = [&](const ChatTemplate& t) {
    std::string out;
    for (const std::string& piece : t.pieces(messages)) out += piece;
    return out;
  };
  EXPECT_EQ(joined(ChatTemplate::of_folder(folder)), "S\n\nUser:\nU\n\nAssistant:\nA\n\nUser:\nV\n\nAssistant:\n");
  write_file(folder / kChatTemplateFile,
             R"({"begin":"<","user":{"before":"[u]"},"assistant":{"before":"[a]","after":"."},"stop":["[u]"]})");
  const ChatTemplate t = ChatTemplate::of_folder(folder);
  EXPECT_EQ(joined(t), "<S\n\n[u]U\n\n[a]A.[u]V\n\n[a]");
  EXPECT_THAT(t.stop, testing::ElementsAre("[u]"));
  EXPECT_THAT(t.jinja(), HasSubstr("{{ \"[a]\" }}{{ message['content'] }}{{ \".\" }}"));
}

TEST_F(ChatTemplateTest, MistakesAreNamed) {
  for (const char* text :
       {"", "[]", R"({"usr":{}})", R"({"user":{"befor":"x"}})", R"({"stop":[""]})", R"({"begin":1})"}) {
    write_file(folder / kChatTemplateFile, text);
    try {
      ChatTemplate::of_folder(folder);
      ADD_FAILURE() << "taken: " << text;
    } catch (const InputError& error) {
      EXPECT_THAT(error.what(), HasSubstr(kChatTemplateFile));
    }
  }
}

TEST_F(ApiKeysTest, OfAFile) {
  write_file(folder / "keys", "# ours\n\n0123456789abcdef\r\nanother-key-0123456789\n");
  const ApiKeys keys = ApiKeys::of_file(folder / "keys");
  EXPECT_TRUE(keys.required());
  EXPECT_TRUE(keys.admits("0123456789abcdef"));
  EXPECT_TRUE(keys.admits("another-key-0123456789"));
  for (const char* wrong : {"", "0123456789abcde", "0123456789abcdef0", "# ours"}) EXPECT_FALSE(keys.admits(wrong));
  EXPECT_FALSE(keys.admits("0123456789abcdef" + std::string(400, 'x')));
  for (const char* bad : {"", "# none\n", "short\n", "with a blank in it\n", "0123456789abcd\xc3\xa4\n"}) {
    write_file(folder / "keys", bad);
    EXPECT_THROW(ApiKeys::of_file(folder / "keys"), InputError) << bad;
  }
  EXPECT_FALSE(ApiKeys().required());
}

TEST(TokenMemory, RememberedTextsKeepTheirTokens) {
  const auto tokenizer = bytes_tokenizer();
  TokenMemory memory;
  // 300 is no token of "ab", so it shows where the tokens come from.
  memory.remember("ab", {300});
  memory.remember("abcd", {300, 301});
  EXPECT_THAT(memory.encode({"a", "bc", "de"}, *tokenizer), testing::ElementsAre(300, 301, 'e'));
  EXPECT_THAT(memory.encode({"abx"}, *tokenizer), testing::ElementsAre(300, 'x'));
  EXPECT_THAT(memory.encode({"xab"}, *tokenizer), testing::ElementsAre('x', 'a', 'b'));
  memory.remember("ab", {302});
  EXPECT_THAT(memory.encode({"ab"}, *tokenizer), testing::ElementsAre(302));
}

TEST(TokenMemory, TheLongestUnusedGivesWay) {
  const auto tokenizer = bytes_tokenizer();
  TokenMemory memory(3);
  memory.remember("a", {301});
  memory.remember("b", {302});
  memory.remember("c", {303});
  EXPECT_THAT(memory.encode({"a"}, *tokenizer), testing::ElementsAre(301));
  memory.remember("d", {304});
  EXPECT_THAT(memory.encode({"b"}, *tokenizer), testing::ElementsAre('b'));
  EXPECT_THAT(memory.encode({"a"}, *tokenizer), testing::ElementsAre(301));
  memory.remember("e", {1, 2, 3, 4});
  EXPECT_THAT(memory.encode({"e"}, *tokenizer), testing::ElementsAre('e'));
}

TEST(MemorySize, Amounts) {
  EXPECT_EQ(memory_size("8GiB", 0, "--memory"), int64_t{8} << 30);
  EXPECT_EQ(memory_size("1.5MB", 0, "--memory"), 1500000);
  EXPECT_EQ(memory_size("17", 0, "--memory"), 17);
  EXPECT_EQ(memory_size("60%", 1000, "--memory"), 600);
  for (const char* bad : {"", "x", "-1", "8 GiB", "8gib", "101%", "nan", "inf", "1e300"})
    EXPECT_THROW(memory_size(bad, 1000, "--memory"), InputError) << bad;
  EXPECT_THROW(memory_size("60%", 0, "--memory"), InputError);
}

TEST(TaskPool, RunsWhatIsPostedAndWhatIsDue) {
  std::atomic<int> now{0}, later{0}, never{0};
  {
    TaskPool pool(2);
    for (int i = 0; i < 100; ++i) pool.post([&] { ++now; });
    pool.after(0.01, [&] { ++later; });
    pool.after(100, [&] { ++never; });
    for (int i = 0; i < 2000 && (now < 100 || later < 1); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(now, 100);
  EXPECT_EQ(later, 1);
  EXPECT_EQ(never, 0);
}

TEST(TaskPool, WhatIsCancelledIsReleasedAtOnceAndNeverRuns) {
  std::atomic<int> ran{0};
  TaskPool pool(1);
  const auto held = std::make_shared<int>();
  const TaskPool::Timer first = pool.after(1, [&, held] { ++ran; });
  const TaskPool::Timer second = pool.after(1, [&] { ran += 10; });
  EXPECT_NE(first, second);
  pool.cancel(first);
  EXPECT_EQ(held.use_count(), 1);
  for (int i = 0; i < 10000 && ran < 10; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(ran, 10);
  pool.cancel(second);  // has run
  pool.cancel({});
}

TEST(TaskPool, WhatIsGatheredWaitsForTheFlushAndKeepsItsOrder) {
  std::vector<int> order;
  std::atomic<bool> last{false};
  TaskPool pool(2, true);
  for (int i = 0; i < 50; ++i) pool.gather([&order, i] { order.push_back(i); });
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_TRUE(order.empty()) << "nothing may run before the flush";
  pool.gather([&last] { last = true; });
  pool.flush();
  for (int i = 0; i < 2000 && !last; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_TRUE(last);
  std::vector<int> want(50);
  std::iota(want.begin(), want.end(), 0);
  EXPECT_EQ(order, want);
  // However often it is flushed, what was gathered first has run before what was gathered later starts.
  std::atomic<int> running{0}, most{0}, done{0};
  for (int i = 0; i < 200; ++i) {
    pool.gather([&] {
      most = std::max<int>(most, ++running);
      std::this_thread::yield();
      --running;
      ++done;
    });
    pool.flush();
  }
  for (int i = 0; i < 2000 && done < 200; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(done, 200);
  EXPECT_EQ(most, 1);
  std::atomic<bool> at_once{false};
  TaskPool plain(1);
  plain.gather([&at_once] { at_once = true; });
  for (int i = 0; i < 2000 && !at_once; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_TRUE(at_once);
}

}  // namespace rattan::serve
