// Reading and writing of configurations described by Fields (fields.h).
#pragma once
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "rattan/base/fields.h"

namespace rattan {

struct ConfigNode;

// A parsed tree of keys with the place each came from. Overrides are "dotted.key=value", later ones win;
// a value is read as TOML and, failing that, as a bare string. A key that takes a string takes the value as it
// stands ("name=123"), and a list key takes "a,b,c" too. Elements of lists are named by their index
// ("data.sources.0.path=x"); the index after the last appends.
class ConfigTree {
 public:
  static ConfigTree empty();
  static ConfigTree from_file(const std::filesystem::path& path);  // InputError with file:line:column
  static ConfigTree from_text(const std::string& text, const std::string& source);
  void override_with(const std::vector<std::string>& assignments);  // InputError names the assignment

  explicit ConfigTree(ConfigNode root);
  ConfigTree(ConfigTree&&) noexcept;
  ConfigTree& operator=(ConfigTree&&) noexcept;
  ~ConfigTree();

  // Fills `value` from the tree. InputError for an unknown key (with the nearest known one), a wrong type or
  // a value out of range; each with file and line. An int64 key takes "1e6" but not 1.5; a double key takes integers.
  // A [[list]] in the tree sets the length of the list; named tables are merged with those present in `value`.
  template <class T>
  void read(T& value) const {
    read_with([&value](Fields& f) { value.fields(f); });
  }
  void read_with(const std::function<void(Fields&)>& describe) const;

 private:
  std::unique_ptr<ConfigNode> root_;
};

// The configuration as TOML, every key written out; reading it gives the same values, bit for bit.
std::string to_toml(const std::function<void(Fields&)>& describe);
template <class T>
  requires requires(T value, Fields& f) { value.fields(f); }
std::string to_toml(T value) {
  return to_toml([&value](Fields& f) { value.fields(f); });
}

// One Markdown table a section: key, type, default, range, meaning. Named tables and lists are shown by one
// element made for that (`<name>`), so `describe` should run on a copy.
std::string to_markdown(const std::function<void(Fields&)>& describe);

// The candidate with the smallest edit distance to `word`, or "" if none is near.
std::string nearest(const std::string& word, const std::vector<std::string>& candidates);

}  // namespace rattan
