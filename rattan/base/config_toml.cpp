// TOML to ConfigNode and back. The only file that sees toml++.
//
// Two habits of toml++ 3.3 need care with hostile text. It asks whether a character beyond ASCII is white space and
// marks as unreachable what many letters do reach, U+00E9 among them; "no" is the answer there. And it states as
// assertions what wrong text can break ("[=" does), which would abort or, with NDEBUG, be undefined; here they throw.
#include <cstddef>
#include <cstdint>
#include <string>

namespace rattan::config_toml_file {
struct BrokenAssertion {};
[[noreturn]] void break_assertion() { throw BrokenAssertion{}; }
}  // namespace rattan::config_toml_file

// clang-format off
#include <toml++/impl/preprocessor.h>
#undef TOML_ASSERT
#undef TOML_ASSERT_ASSUME
#define TOML_ASSERT(holds) ((holds) ? static_cast<void>(0) : ::rattan::config_toml_file::break_assertion())
#define TOML_ASSERT_ASSUME(holds) TOML_ASSERT(holds)
#include <toml++/impl/forward_declarations.h>
#undef TOML_UNREACHABLE
#define TOML_UNREACHABLE return false
#include <toml++/impl/unicode.h>
#undef TOML_UNREACHABLE
#define TOML_UNREACHABLE __builtin_unreachable()
#include <toml++/toml.h>
// clang-format on

#include <charconv>
#include <cmath>
#include <vector>

#include "rattan/base/config_node.h"
#include "rattan/base/error.h"

namespace rattan {
namespace config_toml_file {

ConfigNode convert(const toml::node& node, const std::string& source, int depth) {
  ConfigNode out;
  out.place = fmt::format("{}:{}", source, node.source().begin.line);
  if (depth > kMaxConfigDepth) fail_input("{}: nested more than {} deep", out.place, kMaxConfigDepth);
  if (const toml::table* table = node.as_table()) {
    ConfigNode::Table entries;
    for (const auto& [key, value] : *table)
      entries.emplace_back(std::string(key.str()), convert(value, source, depth + 1));
    out.value = std::move(entries);
  } else if (const toml::array* array = node.as_array()) {
    ConfigNode::List items;
    for (const toml::node& item : *array) items.push_back(convert(item, source, depth + 1));
    out.value = std::move(items);
  } else if (auto string = node.value_exact<std::string>()) {
    out.value = std::move(*string);
  } else if (auto boolean = node.value_exact<bool>()) {
    out.value = *boolean;
  } else if (auto integer = node.value_exact<int64_t>()) {
    out.value = *integer;
  } else if (auto real = node.value_exact<double>()) {
    out.value = *real;
  } else {
    out.value = ConfigNode::Other{"a date or time"};
  }
  return out;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (byte < 0x20 || byte == 0x7F) {
      out += fmt::format("\\u{:04X}", byte);
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string key_text(const std::string& key) {
  auto is_bare = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
  };
  bool bare = !key.empty();
  for (char c : key) bare = bare && is_bare(c);
  return bare ? key : quoted(key);
}

bool is_list_of_tables(const ConfigNode& node) {
  const auto* list = std::get_if<ConfigNode::List>(&node.value);
  return list != nullptr && !list->empty() && list->front().is_table();
}

std::string value_text(const ConfigNode& node) {
  if (const auto* list = std::get_if<ConfigNode::List>(&node.value)) {
    std::string out = "[";
    for (std::size_t i = 0; i < list->size(); ++i) out += (i == 0 ? "" : ", ") + value_text((*list)[i]);
    return out + "]";
  }
  if (const auto* b = std::get_if<bool>(&node.value)) return *b ? "true" : "false";
  if (const auto* i = std::get_if<int64_t>(&node.value)) return fmt::format("{}", *i);
  if (const auto* d = std::get_if<double>(&node.value)) return shortest(*d);
  if (const auto* s = std::get_if<std::string>(&node.value)) return quoted(*s);
  fail("{} cannot be written as TOML", node.describe());
}

// Values first: in TOML, what follows a [table] line belongs to that table.
void print(const ConfigNode& node, const std::string& path, std::string& out) {
  const auto& table = std::get<ConfigNode::Table>(node.value);
  for (const auto& [key, child] : table) {
    if (!child.is_table() && !is_list_of_tables(child)) {
      out += fmt::format("{} = {}\n", key_text(key), value_text(child));
    }
  }
  for (const auto& [key, child] : table) {
    std::string name = path.empty() ? key_text(key) : path + "." + key_text(key);
    if (child.is_table()) {
      out += fmt::format("\n[{}]\n", name);
      print(child, name, out);
    } else if (is_list_of_tables(child)) {
      for (const ConfigNode& item : std::get<ConfigNode::List>(child.value)) {
        out += fmt::format("\n[[{}]]\n", name);
        print(item, name, out);
      }
    }
  }
}

}  // namespace config_toml_file

namespace config_toml_file {

bool breaks(const std::string& text) {
  try {
    static_cast<void>(toml::parse(text));
  } catch (const toml::parse_error&) {
    // An ordinary error, which has its own place.
  } catch (BrokenAssertion) {
    return true;
  }
  return false;
}

// The parser goes from front to back, so the first line that breaks it can be found by halving.
int64_t breaking_line(const std::string& text) {
  std::vector<std::size_t> ends;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\n') ends.push_back(i + 1);
  }
  std::size_t low = 0, high = ends.size();  // the first `low` lines are fine, `high` and one more are not
  while (low < high) {
    std::size_t middle = low + (high - low) / 2;
    if (breaks(text.substr(0, ends[middle]))) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return static_cast<int64_t>(low) + 1;
}

}  // namespace config_toml_file

ConfigNode parse_toml(const std::string& text, const std::string& source) {
  try {
    toml::table table = toml::parse(text);
    return config_toml_file::convert(table, source, 0);
  } catch (const toml::parse_error& error) {
    const toml::source_position at = error.source().begin;
    fail_input("{}:{}:{}: not valid TOML: {}", source, at.line, at.column, error.description());
  } catch (config_toml_file::BrokenAssertion) {
    fail_input("{}:{}: not valid TOML", source, config_toml_file::breaking_line(text));
  }
}

std::string print_toml(const ConfigNode& table) {
  std::string out;
  config_toml_file::print(table, "", out);
  return out.starts_with('\n') ? out.substr(1) : out;
}

std::string shortest(double value) {
  if (std::isnan(value)) return std::signbit(value) ? "-nan" : "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char digits[40];
  std::string out(digits, std::to_chars(digits, digits + sizeof digits, value).ptr);
  return out.find_first_of(".e") == std::string::npos ? out + ".0" : out;
}

}  // namespace rattan
