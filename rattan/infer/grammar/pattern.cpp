#include "rattan/infer/grammar/pattern.h"

#include "rattan/base/error.h"

namespace rattan::infer {
namespace pattern_file {

Pattern made(PatternNode node) { return std::make_shared<const PatternNode>(std::move(node)); }

}  // namespace pattern_file

Pattern chars(CodeSet set) { return pattern_file::made({.kind = PatternNode::Kind::chars, .set = std::move(set)}); }

Pattern literal(std::string_view text) {
  std::vector<Pattern> parts;
  for (std::size_t at = 0; at < text.size();) {
    const int32_t code = next_code(text, at);
    require(code >= 0, "the text is not valid UTF-8 at byte {}", at);
    parts.push_back(chars({{static_cast<uint32_t>(code), static_cast<uint32_t>(code)}}));
  }
  return sequence(std::move(parts));
}

Pattern sequence(std::vector<Pattern> parts) {
  return pattern_file::made({.kind = PatternNode::Kind::sequence, .parts = std::move(parts)});
}

Pattern either(std::vector<Pattern> parts) {
  return pattern_file::made({.kind = PatternNode::Kind::either, .parts = std::move(parts)});
}

Pattern repeat(Pattern part, int64_t min, int64_t max, Pattern between) {
  std::vector<Pattern> parts{std::move(part)};
  if (between) parts.push_back(std::move(between));
  return pattern_file::made({.kind = PatternNode::Kind::repeat, .parts = std::move(parts), .min = min, .max = max});
}

Pattern list(std::vector<Pattern> parts, std::vector<bool> optional, Pattern between) {
  parts.push_back(std::move(between));
  return pattern_file::made(
      {.kind = PatternNode::Kind::list, .parts = std::move(parts), .optional = std::move(optional)});
}

}  // namespace rattan::infer
