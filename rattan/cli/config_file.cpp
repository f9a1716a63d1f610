#include "rattan/cli/config_file.h"

#include "rattan/base/config.h"

namespace rattan::cli {

void ConfigFile::fields(Fields& f) {
  model.fields(f);
  other_fields(f);
}

void ConfigFile::other_fields(Fields& f) {
  f.table("data", data, "what to learn from");
  f.table("train", train, "how to learn");
  f.table("run", run, "what a run writes, and where it computes");
}

ConfigFile read_config_file(const std::filesystem::path& path, const std::vector<std::string>& overrides) {
  ConfigTree tree = ConfigTree::from_file(path);
  tree.override_with(overrides);
  ConfigFile config;
  tree.read(config);
  config.model.validate();
  return config;
}

}  // namespace rattan::cli
