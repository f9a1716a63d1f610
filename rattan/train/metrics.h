// metrics.jsonl: one JSON object a line, each with an integer "step".
#pragma once
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

namespace rattan::train {

class MetricsLog {
 public:
  // Opens the file for appending after dropping every line of a later step than `keep_through` (0: all of
  // them) and a last line cut short by a crash; the file is replaced as a whole, so a crash here loses nothing.
  // Error if it cannot be written, InputError with the line if a line in the middle is not JSON.
  MetricsLog(const std::filesystem::path& path, int64_t keep_through);

  // Adds a line and hands it to the system at once. A value that is not finite becomes null, as JSON has none.
  void append(const nlohmann::json& line);

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::filesystem::path path_;
  std::unique_ptr<std::FILE, Close> file_;
};

// All lines, in order; a last line without its newline is left out.
std::vector<nlohmann::json> read_metrics(const std::filesystem::path& path);

}  // namespace rattan::train
