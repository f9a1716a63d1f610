// The libtorch that runs, against the one this program was built with.
#pragma once
#include <string>

namespace rattan::cli {

struct TorchReport {
  std::string version, folder;              // that runs; version "" if it does not say
  std::string built_version, built_folder;  // that it was built with; folder "" if unknown
  bool moved() const { return !built_folder.empty() && folder != built_folder; }
};

TorchReport torch_report();

}  // namespace rattan::cli
