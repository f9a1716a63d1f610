// The [data] table of a language-modeling run.
#pragma once
#include <string>
#include <vector>

#include "rattan/data/stream.h"

namespace rattan::tasks {

struct LanguageDataConfig {
  std::vector<StreamSource> sources;
  std::string layout = "concat";
  int64_t seq_len = 512, batch = 8, epochs = 0;
  std::string valid_split = "valid";
  int64_t valid_batches = 0;
  void fields(Fields& f);

  StreamConfig training(uint64_t seed) const;
  StreamConfig validation() const;
};

}  // namespace rattan::tasks
