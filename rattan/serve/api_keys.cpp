#include "rattan/serve/api_keys.h"

#include <sstream>

#include "rattan/base/error.h"
#include "rattan/base/files.h"

namespace rattan::serve {
namespace api_keys_file {

constexpr std::size_t kLeast = 16, kMost = 200;

std::string filled(std::string_view key) {
  std::string out(key.substr(0, kMost));
  out.resize(kMost, '\0');
  return out;
}

}  // namespace api_keys_file

ApiKeys::ApiKeys(const std::vector<std::string>& keys) {
  for (const std::string& key : keys) keys_.push_back(api_keys_file::filled(key));
}

ApiKeys ApiKeys::of_file(const std::filesystem::path& path) {
  using namespace api_keys_file;
  std::istringstream in(read_file(path));
  std::vector<std::string> keys;
  int number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ' || line.back() == '\t')) line.pop_back();
    if (line.empty() || line.front() == '#') continue;
    for (const char c : line)
      require(c > ' ' && c < 127, "{}:{}: a key holds letters, digits and signs of ASCII alone", path.string(), number);
    require(line.size() >= kLeast && line.size() <= kMost,
            "{}:{}: a key has {} to {} characters, this one {}; `openssl rand -hex 24` makes one", path.string(),
            number, kLeast, kMost, line.size());
    keys.push_back(line);
  }
  require(!keys.empty(), "{} holds no key; write one a line", path.string());
  return ApiKeys(keys);
}

bool ApiKeys::admits(std::string_view key) const {
  using namespace api_keys_file;
  const std::string given = filled(key);
  unsigned any = 0;
  for (const std::string& known : keys_) {
    volatile unsigned char difference = 0;
    for (std::size_t i = 0; i < kMost; ++i) difference = static_cast<unsigned char>(difference | (known[i] ^ given[i]));
    any |= static_cast<unsigned>(difference == 0);
  }
  return any != 0 && key.size() <= kMost;
}

}  // namespace rattan::serve
