// Reading and writing of configurations described by Fields (fields.h).
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "rattan/base/fields.h"

namespace rattan {

// A parsed tree of keys with the place each came from. Overrides are "dotted.key=value", later ones win;
// a value is read as TOML and, failing that, as a bare string.
class ConfigTree {
 public:
  static ConfigTree empty();
  static ConfigTree from_file(const std::filesystem::path& path);          // InputError with file:line:column
  static ConfigTree from_text(const std::string& text, const std::string& source);
  void override_with(const std::vector<std::string>& assignments);          // InputError names the assignment

  ConfigTree(ConfigTree&&) noexcept;
  ConfigTree& operator=(ConfigTree&&) noexcept;
  ~ConfigTree();

  // Fills `value` from the tree. InputError for an unknown key (with the nearest known one), a wrong type or
  // a value out of range; each with file and line.
  template <class T>
  void read(T& value) const {
    read_with([&value](Fields& f) { value.fields(f); });
  }
  void read_with(const std::function<void(Fields&)>& describe) const;

 private:
  struct Impl;
  explicit ConfigTree(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// The configuration as TOML, every key written out; reading it gives the same values, bit for bit.
std::string to_toml(const std::function<void(Fields&)>& describe);
template <class T>
std::string to_toml(T value) {
  return to_toml([&value](Fields& f) { value.fields(f); });
}

// One Markdown table a section: key, type, default, range, meaning.
std::string to_markdown(const std::function<void(Fields&)>& describe);

// The candidate with the smallest edit distance to `word`, or "" if none is near.
std::string nearest(const std::string& word, const std::vector<std::string>& candidates);

}  // namespace rattan
