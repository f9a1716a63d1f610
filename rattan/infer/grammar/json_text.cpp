#include "rattan/infer/grammar/json_text.h"

#include <fmt/core.h>

#include "rattan/infer/grammar/regex.h"

namespace rattan::infer {
namespace json_text_file {

Pattern word(const char* text) { return literal(text); }

}  // namespace json_text_file

Pattern json_escaped(const CodeSet& set) {
  const CodeSet special{{0, 0x1F}, {'"', '"'}, {'\\', '\\'}};
  std::vector<Pattern> parts{chars(set.intersection(special.complement()))};
  const CodeSet escaped = set.intersection(special);
  for (const auto& [first, last] : escaped.ranges())
    for (uint32_t c = first; c <= last; ++c) {
      const auto at = std::string_view("\"\\\b\f\n\r\t").find(static_cast<char>(c));
      parts.push_back(at == std::string_view::npos ? literal(fmt::format("\\u{:04x}", c))
                                                   : literal(std::string("\\") + "\"\\bfnrt"[at]));
    }
  return either(std::move(parts));
}

Pattern json_string(int64_t min, int64_t max) {
  static const Pattern character =
      parse_regex(R"([^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u(?:[0-9a-cA-CefEF][0-9a-fA-F]|[dD][0-7])[0-9a-fA-F]{2})");
  const Pattern quote = json_text_file::word("\"");
  return sequence({quote, repeat(character, min, max), quote});
}

Pattern json_number() {
  static const Pattern number = parse_regex(R"(-?(?:0|[1-9]\d{0,14})(?:\.\d{1,15})?(?:[eE][+\-]?\d{1,2})?)");
  return number;
}

Pattern json_integer() {
  static const Pattern integer = parse_regex(R"(-?(?:0|[1-9]\d{0,14}))");
  return integer;
}

Pattern json_comma() {
  static const Pattern comma = parse_regex(", ?");
  return comma;
}

Pattern json_array(Pattern item, int64_t min, int64_t max) {
  return sequence(
      {json_text_file::word("["), repeat(std::move(item), min, max, json_comma()), json_text_file::word("]")});
}

Pattern json_member(Pattern name, Pattern value) {
  static const Pattern colon = parse_regex(": ?");
  return sequence({std::move(name), colon, std::move(value)});
}

Pattern json_object(Pattern value) {
  return sequence({json_text_file::word("{"), repeat(json_member(json_string(), std::move(value)), 0, -1, json_comma()),
                   json_text_file::word("}")});
}

Pattern json_value(int depth) {
  using json_text_file::word;
  std::vector<Pattern> kinds{json_string(), json_number(), word("true"), word("false"), word("null")};
  if (depth > 0) {
    const Pattern inner = json_value(depth - 1);
    kinds.push_back(json_array(inner, 0, -1));
    kinds.push_back(json_object(inner));
  }
  return either(std::move(kinds));
}

}  // namespace rattan::infer
