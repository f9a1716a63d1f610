// A configuration text with overrides is either refused with InputError or read; what was read is written as TOML and
// as JSON, and both read back to the same. The input is TOML or, if it starts with '{', JSON; lines after a line "---"
// are overrides.
#include <cstdint>
#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "rattan/base/config.h"
#include "rattan/base/config_json.h"
#include "rattan/base/error.h"

namespace rattan::config_fuzz {

struct Mixer {
  std::string type = "rat";
  int64_t chunk = 16;
  void fields(Fields& f) {
    f("type", type, "kind", one_of({"rat", "swa"}));
    if (type == "rat") f("chunk", chunk, "tokens", at_least(1));
  }
};

struct Source {
  std::string path;
  double weight = 1;
  void fields(Fields& f) {
    f("path", path, "file");
    f("weight", weight, "share");
  }
};

struct Config {
  bool on = true;
  std::vector<std::string> pattern;
  std::vector<double> betas;
  std::map<std::string, Mixer> mixers;
  std::vector<Source> sources;
  Source only;
  void fields(Fields& f) {
    f("on", on, "switch");
    f("pattern", pattern, "names");
    f("betas", betas, "numbers", between(0, 1));
    f.named("mixers", mixers, "named tables");
    f.list("sources", sources, "tables");
    f.table("only", only, "a table");
  }
};

Config read(const ConfigTree& tree) {
  Config config;
  tree.read(config);
  return config;
}

std::string json_of(Config config) {
  return to_json([&](Fields& f) { config.fields(f); }).dump();
}

// Errors in what we wrote ourselves are defects, so InputError is not caught here.
void check_written(const Config& config) {
  std::string toml = to_toml(config), json = json_of(config);
  if (to_toml(read(ConfigTree::from_text(toml, "toml"))) != toml) std::abort();
  if (json_of(read(config_from_json(json, "json"))) != json) std::abort();
}

void run(std::string text) {
  std::vector<std::string> overrides;
  if (std::size_t cut = text.find("\n---\n"); cut != std::string::npos) {
    std::string rest = text.substr(cut + 5);
    text.resize(cut + 1);
    for (std::size_t end; (end = rest.find('\n')) != std::string::npos; rest.erase(0, end + 1)) {
      overrides.push_back(rest.substr(0, end));
    }
    overrides.push_back(rest);
  }
  Config config;
  try {
    bool json = text.starts_with('{');
    ConfigTree tree = json ? config_from_json(text, "fuzz") : ConfigTree::from_text(text, "fuzz");
    tree.override_with(overrides);
    config = read(tree);
  } catch (const InputError&) {
    return;
  }
  try {
    check_written(config);
  } catch (const InputError&) {
    std::abort();
  }
}

}  // namespace rattan::config_fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  rattan::config_fuzz::run(std::string(reinterpret_cast<const char*>(data), size));
  return 0;
}
