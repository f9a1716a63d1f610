#include "rattan/infer/grammar/code_set.h"

#include <algorithm>

#include "rattan/data/utf8.h"

namespace rattan::infer {

CodeSet::CodeSet(std::vector<Range> ranges) : ranges_(std::move(ranges)) { tidy(); }

CodeSet CodeSet::all() { return {{0, 0xD7FF}, {0xE000, 0x10FFFF}}; }

void CodeSet::add(uint32_t first, uint32_t last) {
  ranges_.emplace_back(first, last);
  tidy();
}

void CodeSet::add(const CodeSet& other) {
  ranges_.insert(ranges_.end(), other.ranges_.begin(), other.ranges_.end());
  tidy();
}

CodeSet CodeSet::complement() const {
  CodeSet out;
  uint32_t next = 0;
  for (const auto& [first, last] : ranges_) {
    if (first > next) out.ranges_.emplace_back(next, first - 1);
    next = last + 1;
  }
  if (next <= 0x10FFFF) out.ranges_.emplace_back(next, 0x10FFFF);
  return out.intersection(all());
}

CodeSet CodeSet::intersection(const CodeSet& other) const {
  CodeSet out;
  auto a = ranges_.begin();
  auto b = other.ranges_.begin();
  while (a != ranges_.end() && b != other.ranges_.end()) {
    const uint32_t first = std::max(a->first, b->first), last = std::min(a->second, b->second);
    if (first <= last) out.ranges_.emplace_back(first, last);
    if (a->second < b->second) {
      ++a;
    } else {
      ++b;
    }
  }
  return out;
}

void CodeSet::tidy() {
  std::sort(ranges_.begin(), ranges_.end());
  std::vector<Range> joined;
  for (const Range& r : ranges_) {
    if (!joined.empty() && r.first <= joined.back().second + 1) {
      joined.back().second = std::max(joined.back().second, r.second);
    } else {
      joined.push_back(r);
    }
  }
  ranges_ = std::move(joined);
}

int32_t next_code(std::string_view text, std::size_t& at) {
  const std::size_t n = at < text.size() ? utf8_length(text.substr(at)) : 0;
  if (n == 0) return -1;
  const auto lead = static_cast<uint8_t>(text[at]);
  uint32_t code = n == 1 ? lead : lead & (0x7Fu >> n);
  for (std::size_t i = 1; i < n; ++i) code = code << 6 | (static_cast<uint8_t>(text[at + i]) & 0x3Fu);
  at += n;
  return static_cast<int32_t>(code);
}

}  // namespace rattan::infer
