// Keys that clients must show ("Authorization: Bearer KEY").
#pragma once
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace rattan::serve {

class ApiKeys {
 public:
  ApiKeys() = default;  // no keys: everybody may come
  explicit ApiKeys(const std::vector<std::string>& keys);
  // One key a line; empty lines and those that start with '#' do not count. InputError for a file without keys, for
  // keys of fewer than 16 or more than 200 characters, or with characters that a header cannot hold.
  static ApiKeys of_file(const std::filesystem::path& path);

  bool required() const { return !keys_.empty(); }
  // The time that this takes does not depend on the keys, nor on how much of one `key` has guessed.
  bool admits(std::string_view key) const;

 private:
  std::vector<std::string> keys_;  // each filled up to one length
};

}  // namespace rattan::serve
