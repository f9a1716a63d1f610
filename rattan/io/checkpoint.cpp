#include "rattan/io/checkpoint.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

#include "rattan/base/error.h"
#include "rattan/base/files.h"
#include "rattan/io/crc32.h"

namespace rattan {
namespace checkpoint_file {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kDone = "DONE";
constexpr const char* kWriting = ".writing-";

std::string folder_name(int64_t step) { return fmt::format("step-{}", step); }

// The N of "step-N", or nothing for any other name.
std::optional<int64_t> step_of(const fs::path& folder) {
  std::string name = folder.filename().string();
  int64_t step = 0;
  if (!name.starts_with("step-")) return std::nullopt;
  const char* end = name.data() + name.size();
  auto [stop, error] = std::from_chars(name.data() + 5, end, step);
  if (error != std::errc() || stop != end || step < 0 || name != folder_name(step)) return std::nullopt;
  return step;
}

bool is_done(const fs::path& folder) {
  std::error_code none;
  return fs::is_regular_file(folder / kDone, none);
}

// The entries of a folder by name; none if it does not exist.
std::vector<fs::path> entries(const fs::path& root) {
  std::error_code code;
  std::vector<fs::path> out;
  if (!fs::exists(root, code)) return out;
  fs::directory_iterator at(root, code);
  if (code) fail("cannot list {}: {}", root.string(), code.message());
  for (const fs::directory_entry& entry : at) out.push_back(entry.path());
  std::sort(out.begin(), out.end());
  return out;
}

void make_folder(const fs::path& folder) {
  std::error_code code;
  fs::create_directories(folder, code);
  if (code) fail("cannot create the folder {}: {}", folder.string(), code.message());
}

void remove_tree(const fs::path& folder) {
  std::error_code code;
  fs::remove_all(folder, code);
  if (code) fail("cannot remove {}: {}", folder.string(), code.message());
}

void sync_file(const fs::path& path) {
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  int result = fd < 0 ? -1 : ::fsync(fd);
  int code = errno;
  if (fd >= 0) ::close(fd);
  if (result != 0) fail("cannot sync {}: {}", path.string(), std::strerror(code));
}

// Syncs everything below `folder` and gives the content of DONE.
std::string seal(const fs::path& folder, int64_t step) {
  std::vector<fs::path> files;
  std::error_code code;
  fs::recursive_directory_iterator at(folder, code);
  if (code) fail("cannot list {}: {}", folder.string(), code.message());
  for (const fs::directory_entry& entry : at) {
    if (entry.is_directory() && !entry.is_symlink()) {
      sync_folder(entry.path());
    } else if (entry.is_regular_file() && !entry.is_symlink()) {
      files.push_back(entry.path());
    } else {
      fail("a checkpoint holds files and folders only, not {}", entry.path().string());
    }
  }
  std::sort(files.begin(), files.end());
  Json list = Json::array();
  for (const fs::path& file : files) {
    sync_file(file);
    MappedFile map(file);
    list.push_back({{"path", file.lexically_relative(folder).generic_string()},
                    {"bytes", map.bytes().size()},
                    {"crc32", crc32_of(map.bytes())}});
  }
  sync_folder(folder);
  return Json{{"step", step}, {"files", std::move(list)}}.dump(1) + "\n";
}

// Makes a folder stop counting before it is gone.
void remove_done_folder(const fs::path& folder) {
  std::error_code code;
  fs::remove(folder / kDone, code);
  if (code) fail("cannot remove {}: {}", (folder / kDone).string(), code.message());
  sync_folder(folder);
  remove_tree(folder);
}

void rename_folder(const fs::path& from, const fs::path& to) {
  std::error_code code;
  fs::rename(from, to, code);
  if (code) fail("cannot rename {} to {}: {}", from.string(), to.string(), code.message());
}

// Gives a written and synced folder its final name and its mark.
void publish(const fs::path& aside, const fs::path& target, const std::string& done) {
  if (is_done(target)) {
    // The mark must come along with the exchange, or an unmarked folder would stand where a whole one stood.
    write_file(aside / kDone, done);
    if (::renameat2(AT_FDCWD, aside.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) == 0) {
      sync_folder(target.parent_path());
      remove_done_folder(aside);
      return;
    }
    if (errno != EINVAL && errno != ENOSYS) {
      fail("cannot exchange {} and {}: {}", aside.string(), target.string(), std::strerror(errno));
    }
    remove_done_folder(target);
    rename_folder(aside, target);
    sync_folder(target.parent_path());
    return;
  }
  remove_tree(target);
  rename_folder(aside, target);
  sync_folder(target.parent_path());
  write_file(target / kDone, done);
}

}  // namespace checkpoint_file

Checkpoint write_checkpoint(const std::filesystem::path& root, int64_t step,
                            const std::function<void(const std::filesystem::path&)>& fill) {
  using namespace checkpoint_file;
  require(step >= 0, "a checkpoint needs a step of 0 or more, got {}", step);
  make_folder(root);
  fs::path aside = root / fmt::format("{}{}-{}", kWriting, folder_name(step), ::getpid());
  fs::path target = root / folder_name(step);
  remove_tree(aside);
  make_folder(aside);
  try {
    fill(aside);
    publish(aside, target, seal(aside, step));
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(aside, ignored);
    if (!is_done(target)) fs::remove_all(target, ignored);
    throw;
  }
  return {step, target};
}

std::vector<Checkpoint> list_checkpoints(const std::filesystem::path& root) {
  using namespace checkpoint_file;
  std::vector<Checkpoint> out;
  for (const fs::path& entry : entries(root)) {
    if (std::optional<int64_t> step = step_of(entry); step && is_done(entry)) out.push_back({*step, entry});
  }
  std::sort(out.begin(), out.end(), [](const Checkpoint& a, const Checkpoint& b) { return a.step < b.step; });
  return out;
}

std::optional<Checkpoint> latest_checkpoint(const std::filesystem::path& root) {
  std::vector<Checkpoint> all = list_checkpoints(root);
  if (all.empty()) return std::nullopt;
  return all.back();
}

void verify_checkpoint(const std::filesystem::path& folder) {
  using namespace checkpoint_file;
  if (!is_done(folder)) fail_input("{} is not a finished checkpoint: it has no file {}", folder.string(), kDone);
  std::vector<std::tuple<std::string, uint64_t, uint32_t>> files;
  try {
    Json done = Json::parse(read_file(folder / kDone));
    for (const Json& file : done.at("files")) {
      files.emplace_back(file.at("path").get<std::string>(), file.at("bytes").get<uint64_t>(),
                         file.at("crc32").get<uint32_t>());
    }
  } catch (const nlohmann::json::exception&) {
    fail_input("{} is damaged; use an earlier checkpoint", (folder / kDone).string());
  }
  for (const auto& [name, bytes, crc] : files) {
    fs::path path = folder / name;
    std::error_code none;
    if (!fs::is_regular_file(path, none)) {
      fail_input("{} is missing from the checkpoint; use an earlier one", path.string());
    }
    MappedFile map(path);
    if (map.bytes().size() != bytes) {
      fail_input("{} is {}: {} bytes, expected {}; use an earlier checkpoint", path.string(),
                 map.bytes().size() < bytes ? "truncated" : "too long", map.bytes().size(), bytes);
    }
    if (uint32_t found = crc32_of(map.bytes()); found != crc) {
      fail_input("{} is damaged: its CRC-32 is {:08x}, expected {:08x}; use an earlier checkpoint", path.string(),
                 found, crc);
    }
  }
}

void prune_checkpoints(const std::filesystem::path& root, int64_t keep_last, int64_t keep_every) {
  using namespace checkpoint_file;
  require(keep_last >= 1, "at least the last checkpoint must be kept, got keep_last = {}", keep_last);
  require(keep_every >= 0, "keep_every must be 0 (off) or a number of steps, got {}", keep_every);
  std::vector<Checkpoint> all = list_checkpoints(root);
  int64_t old = static_cast<int64_t>(all.size()) - keep_last;
  for (int64_t i = 0; i < old; ++i) {
    const Checkpoint& checkpoint = all[static_cast<std::size_t>(i)];
    if (keep_every == 0 || checkpoint.step % keep_every != 0) remove_done_folder(checkpoint.folder);
  }
}

void remove_leftovers(const std::filesystem::path& root) {
  using namespace checkpoint_file;
  for (const fs::path& entry : entries(root)) {
    bool writing = entry.filename().string().starts_with(kWriting);
    if (writing || (step_of(entry) && !is_done(entry))) remove_tree(entry);
  }
}

}  // namespace rattan
