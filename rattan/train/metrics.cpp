#include "rattan/train/metrics.h"

#include <cerrno>
#include <cstring>
#include <string>
#include <system_error>

#include "rattan/base/error.h"
#include "rattan/base/files.h"

namespace rattan::train {

std::vector<nlohmann::json> read_metrics(const std::filesystem::path& path) {
  std::vector<nlohmann::json> lines;
  std::string text = read_file(path);
  std::size_t begin = 0;
  for (std::size_t end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    auto line = nlohmann::json::parse(text.begin() + static_cast<std::ptrdiff_t>(begin),
                                      text.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
    if (!line.is_object() || !line.contains("step") || !line["step"].is_number_integer()) {
      fail_input("{}:{}: expected a JSON object with an integer \"step\"; move the file away to start a new one",
                 path.string(), lines.size() + 1);
    }
    lines.push_back(std::move(line));
  }
  return lines;
}

MetricsLog::MetricsLog(const std::filesystem::path& path, int64_t keep_through) : path_(path) {
  std::error_code ignored;
  if (std::filesystem::exists(path, ignored)) {
    std::string kept;
    if (keep_through > 0) {
      for (const nlohmann::json& line : read_metrics(path)) {
        if (line["step"].get<int64_t>() <= keep_through) kept += line.dump() + "\n";
      }
    }
    write_file(path, kept);
  }
  file_.reset(std::fopen(path.c_str(), "ab"));
  if (!file_) fail("{}: cannot be written: {}", path.string(), std::strerror(errno));
}

void MetricsLog::append(const nlohmann::json& line) {
  std::string text = line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  bool written = std::fwrite(text.data(), 1, text.size(), file_.get()) == text.size();
  if (!written || std::fflush(file_.get()) != 0) {
    fail("{}: writing failed: {}. Free some space and resume; the last checkpoint is whole.", path_.string(),
         std::strerror(errno));
  }
}

}  // namespace rattan::train
