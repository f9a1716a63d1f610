#include "rattan/cli/doctor_torch.h"

#include <ATen/Version.h>
#include <dlfcn.h>

#include <filesystem>

namespace rattan::cli {
namespace doctor_torch_file {

namespace fs = std::filesystem;

// The real folder of the library that holds this function.
std::string folder_of(const void* function) {
  Dl_info info{};
  if (dladdr(function, &info) == 0 || info.dli_fname == nullptr) return "";
  std::error_code none;
  const fs::path path = fs::canonical(info.dli_fname, none);
  return (none ? fs::path(info.dli_fname) : path).parent_path().string();
}

// "TORCH_VERSION=2.13.0" out of the settings that libtorch was compiled with.
std::string running_version() {
  const std::string settings = at::show_config(), key = "TORCH_VERSION=";
  const std::size_t at = settings.find(key);
  if (at == std::string::npos) return "";
  const std::size_t begin = at + key.size();
  return settings.substr(begin, settings.find_first_of(", \n", begin) - begin);
}

// "2.13.0" of "2.13.0+cpu".
std::string without_label(const std::string& version) { return version.substr(0, version.find('+')); }

}  // namespace doctor_torch_file

TorchReport torch_report() {
  using namespace doctor_torch_file;
  TorchReport report;
  report.version = without_label(running_version());
  report.folder = folder_of(reinterpret_cast<const void*>(&at::show_config));
  // Both come from rattan/CMakeLists.txt.
  report.built_version = without_label(RATTAN_TORCH_VERSION);
  report.built_folder = RATTAN_TORCH_LIB;
  return report;
}

}  // namespace rattan::cli
