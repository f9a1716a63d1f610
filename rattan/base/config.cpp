#include "rattan/base/config.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "rattan/base/config_node.h"
#include "rattan/base/error.h"
#include "rattan/base/files.h"

namespace rattan {
namespace config_file {

std::vector<std::string> split_key(const std::string& key) {
  std::vector<std::string> parts(1);
  for (char c : key) {
    if (c == '.') {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

// "12" as 12, or -1 if the word is not a plain index.
int64_t as_index(const std::string& word) {
  int64_t index = -1;
  auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), index);
  bool plain = error == std::errc() && end == word.data() + word.size() && index >= 0 && word.size() <= 9;
  return plain ? index : -1;
}

void mark_override(ConfigNode& node, const std::string& place) {
  node.place = place;
  node.from_override = true;
  if (auto* table = std::get_if<ConfigNode::Table>(&node.value)) {
    for (auto& [key, child] : *table) mark_override(child, place);
  } else if (auto* list = std::get_if<ConfigNode::List>(&node.value)) {
    for (ConfigNode& child : *list) mark_override(child, place);
  }
}

// Whether the bytes are UTF-8 as TOML and JSON demand it; what is not could be read but never written again.
bool is_utf8(const std::string& text) {
  for (std::size_t i = 0; i < text.size();) {
    auto lead = static_cast<unsigned char>(text[i]);
    int more = lead < 0x80                   ? 0
               : lead >= 0xC2 && lead < 0xE0 ? 1
               : lead >= 0xE0 && lead < 0xF0 ? 2
               : lead >= 0xF0 && lead < 0xF5 ? 3
                                             : -1;
    if (more < 0 || i + more >= text.size()) return false;
    uint32_t point = more == 0 ? lead : lead & (0x3F >> more);
    for (int k = 1; k <= more; ++k) {
      auto next = static_cast<unsigned char>(text[i + k]);
      if ((next & 0xC0) != 0x80) return false;
      point = point << 6 | (next & 0x3F);
    }
    bool overlong = (more == 2 && point < 0x800) || (more == 3 && point < 0x10000);
    if (overlong || point > 0x10FFFF || (point >= 0xD800 && point < 0xE000)) return false;
    i += more + 1;
  }
  return true;
}

ConfigNode parse_value(const std::string& text, const std::string& place) {
  ConfigNode node;
  node.value = text;
  // A line break would let the value go on into further keys.
  if (!text.empty() && text.find_first_of("\r\n") == std::string::npos) {
    try {
      ConfigNode parsed = parse_toml("v = " + text, place);
      auto& table = std::get<ConfigNode::Table>(parsed.value);
      if (table.size() == 1) node = std::move(table[0].second);
    } catch (const InputError&) {
      // Not TOML: a bare string, as documented.
    }
  }
  mark_override(node, place);
  node.raw = text;
  return node;
}

ConfigNode& step_into(ConfigNode& node, const std::string& part, const std::string& path, const std::string& place) {
  if (auto* list = std::get_if<ConfigNode::List>(&node.value)) {
    int64_t index = as_index(part);
    int64_t size = static_cast<int64_t>(list->size());
    if (index < 0 || index > size) {
      fail_input("{}: '{}' is a list of {}; name an element by its index, 0 to {} ({} appends), not '{}'", place, path,
                 size, size, size, part);
    }
    if (index == size) list->push_back({ConfigNode::Table{}, place, "", true});
    return (*list)[static_cast<std::size_t>(index)];
  }
  if (!node.is_table()) fail_input("{}: '{}' is {}, it has no key '{}'", place, path, node.describe(), part);
  auto& table = std::get<ConfigNode::Table>(node.value);
  for (auto& [key, child] : table) {
    if (key == part) return child;
  }
  table.emplace_back(part, ConfigNode{ConfigNode::Table{}, place, "", true});
  return table.back().second;
}

int distance(const std::string& a, const std::string& b) {
  // Optimal string alignment: insertions, deletions, substitutions and swaps of neighbors.
  std::vector<std::vector<int>> d(a.size() + 1, std::vector<int>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i) {
    for (std::size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        d[i][j] = static_cast<int>(i + j);
        continue;
      }
      int cost = a[i - 1] == b[j - 1] ? 0 : 1;
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + cost});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
      }
    }
  }
  return d[a.size()][b.size()];
}

}  // namespace config_file

const ConfigNode* ConfigNode::find(const std::string& key) const {
  const Table* table = std::get_if<Table>(&value);
  if (table == nullptr) return nullptr;
  for (const auto& [name, child] : *table) {
    if (name == key) return &child;
  }
  return nullptr;
}

std::string ConfigNode::describe() const {
  struct Describe {
    std::string operator()(const Table&) { return "a table"; }
    std::string operator()(const List& list) { return fmt::format("a list of {}", list.size()); }
    std::string operator()(bool b) { return b ? "true" : "false"; }
    std::string operator()(int64_t i) { return fmt::format("{}", i); }
    std::string operator()(double d) { return shortest(d); }
    std::string operator()(const std::string& s) {
      return s.size() <= 60 ? fmt::format("the string \"{}\"", s) : fmt::format("a string of {} bytes", s.size());
    }
    std::string operator()(Nothing) { return "null"; }
    std::string operator()(const Other& other) { return other.what; }
  };
  return std::visit(Describe{}, value);
}

ConfigTree::ConfigTree(ConfigNode root) : root_(std::make_unique<ConfigNode>(std::move(root))) {}
ConfigTree::ConfigTree(ConfigTree&&) noexcept = default;
ConfigTree& ConfigTree::operator=(ConfigTree&&) noexcept = default;
ConfigTree::~ConfigTree() = default;

ConfigTree ConfigTree::empty() { return ConfigTree(ConfigNode{ConfigNode::Table{}, "", "", false}); }

ConfigTree ConfigTree::from_file(const std::filesystem::path& path) {
  return from_text(read_file(path), path.string());
}

ConfigTree ConfigTree::from_text(const std::string& text, const std::string& source) {
  return ConfigTree(parse_toml(text, source));
}

void ConfigTree::override_with(const std::vector<std::string>& assignments) {
  using namespace config_file;
  for (const std::string& assignment : assignments) {
    std::size_t equals = assignment.find('=');
    if (equals == std::string::npos || equals == 0) {
      fail_input("'{}' is not an override; write key=value, such as train.lr=3e-4", assignment);
    }
    if (!is_utf8(assignment)) fail_input("an override is not valid UTF-8: '{}'", assignment.substr(0, equals));
    std::string place = fmt::format("override '{}'", assignment);
    std::string path;
    std::vector<std::string> parts = split_key(assignment.substr(0, equals));
    if (parts.size() > kMaxConfigDepth) fail_input("{}: more than {} levels of keys", place, kMaxConfigDepth);
    ConfigNode* node = root_.get();
    for (const std::string& part : parts) {
      if (part.empty()) fail_input("{}: the key has an empty part", place);
      node = &step_into(*node, part, path, place);
      path += (path.empty() ? "" : ".") + part;
    }
    *node = parse_value(assignment.substr(equals + 1), place);
  }
}

std::string nearest(const std::string& word, const std::vector<std::string>& candidates) {
  // A typo changes about a third of a word at most; beyond that a suggestion misleads.
  if (word.size() > 200) return "";
  int best = std::max<int>(1, static_cast<int>(word.size()) / 3) + 1;
  std::string found;
  for (const std::string& candidate : candidates) {
    if (candidate.size() > 200) continue;
    if (int d = config_file::distance(word, candidate); d < best) {
      best = d;
      found = candidate;
    }
  }
  return found;
}

}  // namespace rattan
