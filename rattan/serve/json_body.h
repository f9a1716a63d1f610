// JSON that came from strangers: one object, read member by member, every member accounted for.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "rattan/serve/api_error.h"

namespace rattan::serve {

inline constexpr int kMaxDepth = 32;  // of nested arrays and objects

// ApiError 400 unless `text` is one JSON object: with the byte where the grammar broke, for nesting beyond kMaxDepth,
// for a member that is there twice, for text that is not UTF-8, and for numbers that no double holds.
// In a long body, arrays of integers in the members `prompt` and `tokens` come as binary (packed_integers): as nodes
// they would take several times as long as all the rest.
nlohmann::json parse_object(std::string_view text);

// A JSON array: also one that came as binary.
inline bool is_array(const nlohmann::json& value) { return value.is_array() || value.is_binary(); }
std::vector<int64_t> packed_integers(const nlohmann::json& binary);

// A member of an object that is being read. null counts as absent. Each reader throws ApiError 400 naming the member
// for another type or range.
class Members {
 public:
  // `where`: what stands before the names in errors, as "messages[2].".
  explicit Members(const nlohmann::json& object, std::string where = "");

  const nlohmann::json* any(const char* name);
  std::optional<int64_t> integer(const char* name, int64_t low, int64_t high);
  std::optional<double> number(const char* name, double low, double high);
  std::optional<bool> boolean(const char* name);
  std::optional<std::string> text(const char* name);
  // Members that the protocol knows and this server does not: an error if they are there, null apart.
  void unsupported(std::initializer_list<const char*> names);
  // An error for a member that nobody asked for, with the nearest known name.
  void done() const;

  std::string path(const std::string& name) const { return where_ + name; }

 private:
  const nlohmann::json& object_;
  std::string where_;
  std::set<std::string> known_;
};

// "a string", "a number", ... for errors.
std::string kind_of(const nlohmann::json& value);

}  // namespace rattan::serve
