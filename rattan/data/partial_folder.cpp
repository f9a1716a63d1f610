#include "rattan/data/partial_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "rattan/base/error.h"
#include "rattan/base/files.h"

namespace rattan {
namespace partial_folder_file {

namespace fs = std::filesystem;

void check_free(const fs::path& out, bool overwrite, const char* marker) {
  std::error_code error;
  if (!fs::exists(out, error)) return;
  require(fs::is_directory(out, error), "{}: exists and is not a folder", out.string());
  if (fs::is_empty(out, error)) return;
  require(overwrite, "{}: exists already; choose another name, or replace it with --overwrite", out.string());
  require(fs::exists(out / marker, error),
          "{}: exists, but there is no {} in it; remove it yourself if it is not needed", out.string(), marker);
}

}  // namespace partial_folder_file

PartialFolder::PartialFolder(const std::filesystem::path& out, bool overwrite, const char* marker)
    : out_(out.lexically_normal()) {
  using namespace partial_folder_file;
  if (!out_.has_filename()) out_ = out_.parent_path();
  require(!out_.empty() && out_ != "." && out_ != "..", "\"{}\" cannot be an output folder; give it a name",
          out.string());
  check_free(out_, overwrite, marker);
  path_ = out_.string() + ".partial";
  std::error_code error;
  fs::create_directories(path_, error);
  if (error) fail("{}: cannot make this folder: {}", path_.string(), error.message());
  fs::path lock = path_ / "lock";
  lock_ = ::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock_ < 0) fail("{}: cannot make this file: {}", lock.string(), std::strerror(errno));
  if (::flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    ::close(lock_);
    fail_input("{}: another process is writing this folder", path_.string());
  }
  for (const auto& entry : fs::directory_iterator(path_))
    if (entry.path() != lock) fs::remove_all(entry.path());
}

PartialFolder::~PartialFolder() {
  std::error_code error;
  if (!published_) std::filesystem::remove_all(path_, error);
  ::close(lock_);
}

void PartialFolder::publish() {
  using namespace partial_folder_file;
  try {
    fs::remove(path_ / "lock");
    sync_folder(path_);
    fs::path old = out_.string() + ".old";
    bool replaces = fs::exists(out_) && !fs::is_empty(out_);
    if (replaces) {
      fs::remove_all(old);
      fs::rename(out_, old);
    }
    fs::rename(path_, out_);
    published_ = true;
    sync_folder(out_.has_parent_path() ? out_.parent_path() : fs::path("."));
    if (replaces) fs::remove_all(old);
  } catch (const fs::filesystem_error& error) {
    fail("{}: cannot be put into place: {}", out_.string(), error.what());
  }
}

}  // namespace rattan
