// Figures of the server in the text format that Prometheus reads.
#pragma once
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "rattan/infer/engine.h"

namespace rattan::serve {

class Metrics {
 public:
  void count(const std::string& route, int status);  // `route` is one of ours or "other"
  void aborted();

  // `stats` is nullptr as long as there is no engine.
  std::string text(const infer::EngineStats* stats, int64_t connections) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, uint64_t> answers_;
  uint64_t aborted_ = 0;
};

}  // namespace rattan::serve
