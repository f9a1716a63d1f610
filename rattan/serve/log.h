// One JSON object a line, for machines that read logs. No text of prompts or answers unless asked for.
#pragma once
#include <cstdio>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace rattan::serve {

class Log {
 public:
  explicit Log(std::FILE* out, bool quiet = false) : out_(out), quiet_(quiet) {}
  // {"time": ..., "level": level, "event": event, ...fields}
  void write(const char* level, const char* event, const nlohmann::json& fields);

 private:
  std::FILE* out_;
  bool quiet_;  // warnings and errors alone
  std::mutex mutex_;
};

}  // namespace rattan::serve
