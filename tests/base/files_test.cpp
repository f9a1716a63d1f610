#include "rattan/base/files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstring>

#include "rattan/base/error.h"

namespace rattan::files_test {

namespace fs = std::filesystem;
using testing::HasSubstr;

class Files : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / fmt::format("rattan-files-{}", ::getpid());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::size_t entries() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()));
  }
  template <class Thrown, class Work>
  static std::string message(Work work) {
    try {
      work();
    } catch (const Thrown& error) {
      return error.what();
    }
    ADD_FAILURE() << "nothing was thrown";
    return "";
  }
  fs::path folder_;
};

TEST_F(Files, WhatIsWrittenIsRead) {
  std::string content("a\0b\n\xff", 5);
  write_file(folder_ / "x", content);
  EXPECT_EQ(read_file(folder_ / "x"), content);
  write_file(folder_ / "x", "");
  EXPECT_EQ(read_file(folder_ / "x"), "");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(Files, AppendsOfAllSizesArriveInOrder) {
  std::string expected;
  write_file(folder_ / "x", [&](const ByteWriter& write) {
    for (std::size_t size : {1u, 7u, 1u << 19, 1u << 19, 1u << 20, 3u, (1u << 20) + 1, 0u, 5u}) {
      std::string piece(size, static_cast<char>('a' + expected.size() % 23));
      write(piece.data(), piece.size());
      expected += piece;
    }
  });
  EXPECT_EQ(read_file(folder_ / "x"), expected);
}

TEST_F(Files, FailureWhileFillingLeavesTheOldFileAndNothingElse) {
  write_file(folder_ / "x", "old");
  auto broken = [&] {
    write_file(folder_ / "x", [](const ByteWriter& write) {
      std::string piece(3 << 20, 'n');
      write(piece.data(), piece.size());
      fail("the tensor is not finite");
    });
  };
  EXPECT_THAT(message<Error>(broken), HasSubstr("not finite"));
  EXPECT_EQ(read_file(folder_ / "x"), "old");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(Files, FullDeviceIsAnErrorWithPathAndReason) {
  std::string said = message<Error>([] { write_file("/dev/full", "x"); });
  EXPECT_THAT(said, HasSubstr("/dev/full"));
  EXPECT_THAT(said, HasSubstr(std::strerror(ENOSPC)));
  EXPECT_TRUE(fs::is_character_file("/dev/full")) << "a device must not be replaced by a file";
}

TEST_F(Files, FullDiskLeavesTheOldFileAndNothingElse) {
  if (::mount("tmpfs", folder_.c_str(), "tmpfs", 0, "size=256k") != 0) {
    GTEST_SKIP() << "mounting a small file system needs rights this user does not have";
  }
  write_file(folder_ / "x", "old");
  std::string said = message<Error>([&] { write_file(folder_ / "x", std::string(1 << 20, 'n')); });
  std::string kept = read_file(folder_ / "x");
  std::size_t left = entries();
  ::umount(folder_.c_str());
  EXPECT_THAT(said, HasSubstr(std::strerror(ENOSPC)));
  EXPECT_THAT(said, HasSubstr((folder_ / "x").string()));
  EXPECT_EQ(kept, "old");
  EXPECT_EQ(left, 1u);
}

// The same without special rights: a limit on file sizes makes write() fail with EFBIG part-way.
TEST_F(Files, WriteThatFailsPartWayLeavesTheOldFileAndNothingElse) {
  write_file(folder_ / "x", "old");
  rlimit before;
  ::getrlimit(RLIMIT_FSIZE, &before);
  auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small{64 << 10, before.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &small);
  std::string said = message<Error>([&] { write_file(folder_ / "x", std::string(1 << 20, 'n')); });
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_THAT(said, HasSubstr(std::strerror(EFBIG)));
  EXPECT_EQ(read_file(folder_ / "x"), "old");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(Files, VanishedFolderIsNamed) {
  fs::path gone = folder_ / "gone";
  std::string said = message<Error>([&] { write_file(gone / "x", "y"); });
  EXPECT_THAT(said, HasSubstr((gone / "x").string()));
  EXPECT_THAT(said, HasSubstr(fmt::format("the folder {} does not exist", gone.string())));

  fs::create_directory(gone);
  said = message<Error>([&] {
    write_file(gone / "x", [&](const ByteWriter& write) {
      write("half", 4);
      fs::remove_all(gone);
    });
  });
  EXPECT_THAT(said, HasSubstr("does not exist"));
  EXPECT_EQ(entries(), 0u);
}

TEST_F(Files, FolderInPlaceOfAFileIsAnError) {
  EXPECT_THAT(message<Error>([&] { write_file(folder_, "x"); }), HasSubstr("is a folder"));
  EXPECT_THAT(message<InputError>([&] { read_file(folder_); }), HasSubstr("is a folder"));
  EXPECT_THAT(message<InputError>([&] { MappedFile map(folder_); }), HasSubstr("is a folder"));
  write_file(folder_ / "x", "file");
  EXPECT_THAT(message<Error>([&] { write_file(folder_ / "x" / "y", "z"); }), HasSubstr("is not a folder"));
}

TEST_F(Files, LinkIsFollowedAndKept) {
  write_file(folder_ / "target", "old");
  fs::create_symlink("target", folder_ / "link");
  write_file(folder_ / "link", "new");
  EXPECT_TRUE(fs::is_symlink(folder_ / "link"));
  EXPECT_EQ(read_file(folder_ / "target"), "new");
}

TEST_F(Files, MissingFileIsAnInputError) {
  EXPECT_THAT(message<InputError>([&] { read_file(folder_ / "no"); }), HasSubstr((folder_ / "no").string()));
  EXPECT_THROW(MappedFile(folder_ / "no"), InputError);
}

TEST_F(Files, MapShowsTheBytesAndMoves) {
  write_file(folder_ / "x", "abc");
  write_file(folder_ / "empty", "");
  MappedFile map(folder_ / "x"), other(folder_ / "empty");
  EXPECT_TRUE(other.bytes().empty());
  other = std::move(map);
  ASSERT_EQ(other.bytes().size(), 3u);
  EXPECT_EQ(std::memcmp(other.bytes().data(), "abc", 3), 0);
  MappedFile third(std::move(other));
  EXPECT_EQ(third.bytes().size(), 3u);
}

}  // namespace rattan::files_test
