#include "rattan/serve/log.h"

#include <fmt/core.h>

#include <chrono>
#include <cstring>
#include <ctime>
#include <nlohmann/json.hpp>

namespace rattan::serve {

void Log::write(const char* level, const char* event, const nlohmann::json& fields) {
  if (quiet_ && std::strcmp(level, "info") == 0) return;
  const auto now = std::chrono::system_clock::now();
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  const auto milliseconds =
      std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
  nlohmann::ordered_json line = {
      {"time", fmt::format("{}.{:03}Z", text, milliseconds)}, {"level", level}, {"event", event}};
  for (const auto& [key, value] : fields.items()) line[key] = value;
  const std::string out = line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  const std::lock_guard lock(mutex_);
  std::fwrite(out.data(), 1, out.size(), out_);
  std::fflush(out_);
}

}  // namespace rattan::serve
