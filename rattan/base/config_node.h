// The parsed form of a configuration, whatever it was written in: a tree whose nodes know where they came from.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <variant>
#include <vector>

namespace rattan {

struct ConfigNode {
  struct Nothing {};  // JSON null
  struct Other {
    std::string what;
  };  // a value no key takes, such as a date
  using List = std::vector<ConfigNode>;
  struct Entry;
  using Table = std::vector<Entry>;  // in the order of the source

  std::variant<Table, List, bool, int64_t, double, std::string, Nothing, Other> value;
  std::string place;  // "recipe.toml:12" or "override 'train.lr=3'"
  std::string raw;    // the text of an override's value, "" elsewhere
  bool from_override = false;

  bool is_table() const { return std::holds_alternative<Table>(value); }
  bool is_list() const { return std::holds_alternative<List>(value); }
  const ConfigNode* find(const std::string& key) const;  // nullptr if absent or not a table
  std::string describe() const;                          // "the string \"adam\"", "a table", "1.5"
};

struct ConfigNode::Entry {
  std::string first;
  ConfigNode second;
};

// Deeper nesting than any configuration has; the limit keeps hostile input from exhausting the stack.
inline constexpr int kMaxConfigDepth = 32;

ConfigNode parse_toml(const std::string& text, const std::string& source);  // config_toml.cpp
std::string print_toml(const ConfigNode& table);

// The tree of what a description holds now, in its order.
class Fields;
ConfigNode build_config(const std::function<void(Fields&)>& describe);  // config_write.cpp

// A double in the fewest digits that read back to the same value, always recognizable as a float.
std::string shortest(double value);

}  // namespace rattan
