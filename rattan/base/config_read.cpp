// ConfigTree::read: the Fields that fill values from a parsed tree.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

#include "rattan/base/config.h"
#include "rattan/base/config_node.h"
#include "rattan/base/error.h"
#include "rattan/base/range.h"

namespace rattan {
namespace config_read_file {

std::string joined(const std::string& path, const std::string& key) { return path.empty() ? key : path + "." + key; }

// "a, b,c" of an override such as pattern=rat,local; surrounding brackets are allowed.
std::vector<std::string> split_list(std::string text) {
  if (text.size() >= 2 && text.front() == '[' && text.back() == ']') text = text.substr(1, text.size() - 2);
  std::vector<std::string> parts;
  std::size_t begin = 0;
  while (begin <= text.size() && !text.empty()) {
    std::size_t end = std::min(text.find(',', begin), text.size());
    std::string part = text.substr(begin, end - begin);
    std::size_t first = part.find_first_not_of(" \"'"), last = part.find_last_not_of(" \"'");
    parts.push_back(first == std::string::npos ? "" : part.substr(first, last - first + 1));
    begin = end + 1;
  }
  return parts;
}

class Reader : public Fields {
 public:
  explicit Reader(const ConfigNode& root) { levels_.push_back({&root, "", {}}); }

  void operator()(const char* key, bool& value, const char* help) override {
    const ConfigNode* node = take(key);
    if (node == nullptr) return;
    const bool* found = std::get_if<bool>(&node->value);
    if (found == nullptr) wrong_type(*node, key, "true or false", help);
    value = *found;
  }

  void operator()(const char* key, int64_t& value, const char* help, Range range) override {
    const ConfigNode* node = take(key);
    if (node == nullptr) return;
    int64_t read = 0;
    if (const auto* integer = std::get_if<int64_t>(&node->value)) {
      read = *integer;
    } else if (const auto* real = std::get_if<double>(&node->value);
               real != nullptr && std::trunc(*real) == *real && std::fabs(*real) <= 0x1p53) {
      read = static_cast<int64_t>(*real);  // "1e6" is a whole number however it is spelled
    } else {
      wrong_type(*node, key, "a whole number", help);
    }
    if (!range_holds(range, static_cast<double>(read))) out_of_range(*node, key, range, help);
    value = read;
  }

  void operator()(const char* key, double& value, const char* help, Range range) override {
    const ConfigNode* node = take(key);
    if (node != nullptr) value = number(*node, key, help, range);
  }

  void operator()(const char* key, std::string& value, const char* help, Range range) override {
    const ConfigNode* node = take(key);
    if (node == nullptr) return;
    const auto* string = std::get_if<std::string>(&node->value);
    bool bare = string == nullptr && node->from_override && !node->raw.empty() && !node->is_table() && !node->is_list();
    if (string == nullptr && !bare) wrong_type(*node, key, "a string", help);
    const std::string& read = bare ? node->raw : *string;
    if (!range.choices.empty() && std::find(range.choices.begin(), range.choices.end(), read) == range.choices.end()) {
      std::string near = nearest(read, range.choices);
      fail_input("{}: '{}' must be {}, got \"{}\"{}", node->place, path_of(key), range_text(range), read,
                 near.empty() ? "" : fmt::format("; did you mean \"{}\"?", near));
    }
    value = read;
  }

  void operator()(const char* key, std::vector<std::string>& value, const char* help) override {
    const ConfigNode* node = take(key);
    if (node == nullptr) return;
    if (!node->is_list() && !node->is_table() && node->from_override) {
      const auto* string = std::get_if<std::string>(&node->value);
      value = split_list(string != nullptr ? *string : node->raw);
      return;
    }
    const auto* list = std::get_if<ConfigNode::List>(&node->value);
    if (list == nullptr) wrong_type(*node, key, "a list of strings", help);
    std::vector<std::string> read;
    for (const ConfigNode& item : *list) {
      const auto* string = std::get_if<std::string>(&item.value);
      if (string == nullptr) wrong_type(item, key, "a list of strings", help);
      read.push_back(*string);
    }
    value = std::move(read);
  }

  void operator()(const char* key, std::vector<double>& value, const char* help, Range range) override {
    const ConfigNode* node = take(key);
    if (node == nullptr) return;
    std::vector<double> read;
    if (const auto* list = std::get_if<ConfigNode::List>(&node->value)) {
      for (const ConfigNode& item : *list) read.push_back(number(item, key, help, range));
    } else if (node->from_override && !node->is_table()) {
      for (const std::string& part : split_list(node->raw)) {
        read.push_back(number({part, node->place, part, true}, key, help, range));
      }
    } else {
      wrong_type(*node, key, "a list of numbers", help);
    }
    value = std::move(read);
  }

  void note(const char*) override {}

  // Throws for the first key that no description asked for.
  void finish() {
    close_level();
    if (unknown_.empty()) return;
    const Unknown& first = unknown_.front();
    std::string near = nearest(first.key, first.siblings);
    if (!near.empty()) {
      near = joined(first.path, near);
    } else {
      near = nearest_elsewhere(first);
    }
    std::string hint;
    if (!near.empty()) {
      hint = fmt::format("did you mean '{}'?", near);
    } else if (first.siblings.empty()) {
      hint = "no keys are known here";
    } else {
      hint = "known here: ";
      for (std::size_t i = 0; i < first.siblings.size(); ++i) hint += (i == 0 ? "" : ", ") + first.siblings[i];
    }
    fail_input("{}: unknown key '{}'; {}", first.place, joined(first.path, first.key), hint);
  }

 protected:
  void enter(const char* key, const char* help) override {
    const ConfigNode* node = take(key);
    if (node != nullptr && !node->is_table()) wrong_type(*node, key, "a table", help);
    levels_.push_back({node, path_of(key), {}});
  }

  void enter_named(const char* key, const std::string& name) override {
    const ConfigNode* node = current().node == nullptr ? nullptr : current().node->find(key);
    push_child(path_of(key), name, node == nullptr ? nullptr : node->find(name));
  }

  void enter_index(const char* key, std::size_t index) override {
    const ConfigNode* node = current().node == nullptr ? nullptr : current().node->find(key);
    const ConfigNode* item = nullptr;
    std::string name = std::to_string(index);
    if (node != nullptr) {
      const auto* list = std::get_if<ConfigNode::List>(&node->value);
      item = list == nullptr ? node->find(name) : index < list->size() ? &(*list)[index] : nullptr;
    }
    push_child(path_of(key), name, item);
  }

  void leave() override { close_level(); }

  std::vector<std::string> names(const char* key, const char* help, std::vector<std::string> present) override {
    const ConfigNode* node = take(key);
    if (node == nullptr) return present;
    const auto* table = std::get_if<ConfigNode::Table>(&node->value);
    if (table == nullptr) wrong_type(*node, key, "a table of named tables", help);
    std::set<std::string> all(present.begin(), present.end());
    for (const auto& [name, child] : *table) all.insert(name);
    return {all.begin(), all.end()};
  }

  std::size_t count(const char* key, const char* help, std::size_t present) override {
    const ConfigNode* node = take(key);
    if (node == nullptr) return present;
    if (const auto* list = std::get_if<ConfigNode::List>(&node->value)) return list->size();
    const auto* table = std::get_if<ConfigNode::Table>(&node->value);
    // A table with the keys 0, 1, ... is what overrides make of a list that the file does not have.
    if (table == nullptr || !node->from_override) wrong_type(*node, key, "a list of tables", help);
    std::size_t size = present;
    while (node->find(std::to_string(size)) != nullptr) ++size;
    for (const auto& [name, child] : *table) {
      bool known = false;
      for (std::size_t i = 0; i < size && !known; ++i) known = name == std::to_string(i);
      if (!known) {
        fail_input("{}: '{}' is a list of {}; name an element by its index, 0 to {}, not '{}'", child.place,
                   path_of(key), size, size, name);
      }
    }
    return size;
  }

 private:
  struct Level {
    const ConfigNode* node;  // nullptr: nothing given, defaults stay
    std::string path;
    std::vector<std::string> known;
  };
  struct Unknown {
    std::string place, path, key;
    std::vector<std::string> siblings;
  };

  Level& current() { return levels_.back(); }
  std::string path_of(const char* key) const { return joined(levels_.back().path, key); }

  const ConfigNode* take(const char* key) {
    current().known.push_back(key);
    all_known_.push_back(path_of(key));
    return current().node == nullptr ? nullptr : current().node->find(key);
  }

  void push_child(const std::string& path, const std::string& name, const ConfigNode* node) {
    std::string full = joined(path, name);
    if (node != nullptr && !node->is_table()) {
      fail_input("{}: '{}' takes a table, got {}", node->place, full, node->describe());
    }
    levels_.push_back({node, full, {}});
  }

  void close_level() {
    Level level = std::move(levels_.back());
    levels_.pop_back();
    if (level.node == nullptr) return;
    for (const auto& [key, child] : std::get<ConfigNode::Table>(level.node->value)) {
      if (std::find(level.known.begin(), level.known.end(), key) == level.known.end()) {
        unknown_.push_back({child.place, level.path, key, level.known});
      }
    }
  }

  // The same or nearly the same key in another table: 'lr' for 'train.lr'.
  std::string nearest_elsewhere(const Unknown& unknown) const {
    for (const std::string& path : all_known_) {
      if (path.substr(path.rfind('.') + 1) == unknown.key) return path;
    }
    return nearest(joined(unknown.path, unknown.key), all_known_);
  }

  double number(const ConfigNode& node, const char* key, const char* help, const Range& range) {
    double read = 0;
    if (const auto* real = std::get_if<double>(&node.value)) {
      read = *real;
    } else if (const auto* integer = std::get_if<int64_t>(&node.value)) {
      read = static_cast<double>(*integer);
    } else if (const auto* text = std::get_if<std::string>(&node.value);
               text == nullptr || !(non_finite(*text, read) || (node.from_override && plain_number(*text, read)))) {
      wrong_type(node, key, "a number", help);
    }
    if (!range_holds(range, read)) out_of_range(node, key, range, help);
    return read;
  }

  // TOML wants digits before a point; a command line need not.
  static bool plain_number(const std::string& text, double& value) {
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc() && end == text.data() + text.size();
  }

  // JSON has no spelling for these values but a string.
  static bool non_finite(const std::string& text, double& value) {
    if (text != "inf" && text != "-inf" && text != "nan" && text != "-nan") return false;
    double magnitude = text.ends_with("inf") ? INFINITY : NAN;
    value = std::copysign(magnitude, text[0] == '-' ? -1.0 : 1.0);
    return true;
  }

  [[noreturn]] void wrong_type(const ConfigNode& node, const char* key, const char* wanted, const char* help) const {
    fail_input("{}: '{}' ({}) takes {}, got {}", node.place, path_of(key), help, wanted, node.describe());
  }

  [[noreturn]] void out_of_range(const ConfigNode& node, const char* key, const Range& range, const char* help) const {
    fail_input("{}: '{}' ({}) must be {}, got {}", node.place, path_of(key), help, range_text(range), node.describe());
  }

  std::vector<Level> levels_;
  std::vector<Unknown> unknown_;
  std::vector<std::string> all_known_;
};

}  // namespace config_read_file

void ConfigTree::read_with(const std::function<void(Fields&)>& describe) const {
  config_read_file::Reader reader(*root_);
  describe(reader);
  reader.finish();
}

}  // namespace rattan
