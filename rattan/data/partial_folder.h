// A folder that appears complete or not at all.
#pragma once
#include <filesystem>

namespace rattan {

// Collects files in OUT.partial. publish() renames that to OUT; without it the destructor removes it. What a
// killed process left is removed by the next one. InputError if OUT exists (unless it may be replaced: then
// it must hold `marker`, so that no other folder is ever deleted), or if another process is writing it.
class PartialFolder {
 public:
  PartialFolder(const std::filesystem::path& out, bool overwrite, const char* marker);
  ~PartialFolder();
  PartialFolder(const PartialFolder&) = delete;
  PartialFolder& operator=(const PartialFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  void publish();

 private:
  std::filesystem::path out_, path_;
  int lock_ = -1;
  bool published_ = false;
};

}  // namespace rattan
