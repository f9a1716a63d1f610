#include "rattan/infer/grammar/nfa.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "rattan/base/error.h"

namespace rattan::infer {
namespace nfa_file {

constexpr std::size_t kMaxNodes = 200'000;

// Every function takes the node that follows and returns the node that starts.
class Maker {
 public:
  explicit Maker(const CodeSet& writable) : writable_(writable) {}

  Nfa make(const Pattern& pattern) {
    nfa_.end = node({});
    nfa_.start = follow(*pattern, nfa_.end);
    return std::move(nfa_);
  }

 private:
  using Bytes = std::map<std::tuple<uint8_t, uint8_t, int32_t>, int32_t>;

  int32_t node(NfaNode made) {
    require(nfa_.nodes.size() < kMaxNodes, "the pattern is too large: it takes more than {} nodes", kMaxNodes);
    nfa_.nodes.push_back(std::move(made));
    return static_cast<int32_t>(nfa_.nodes.size() - 1);
  }
  int32_t choice(std::vector<int32_t> nodes) { return node({.free = std::move(nodes)}); }

  int32_t follow(const PatternNode& p, int32_t next) {
    switch (p.kind) {
      case PatternNode::Kind::chars:
        return characters(p.set.intersection(writable_), next);
      case PatternNode::Kind::sequence:
        for (auto part = p.parts.rbegin(); part != p.parts.rend(); ++part) next = follow(**part, next);
        return next;
      case PatternNode::Kind::either: {
        std::vector<int32_t> nodes;
        for (const Pattern& part : p.parts) nodes.push_back(follow(*part, next));
        return choice(std::move(nodes));
      }
      case PatternNode::Kind::repeat:
        return repeated(p, next);
      case PatternNode::Kind::list:
        return listed(p, next);
    }
    return next;
  }

  int32_t repeated(const PatternNode& p, int32_t next) {
    if (p.max == 0) return next;
    if (p.parts.size() == 1) return times(p, p.min, p.max, next);
    const int64_t more = std::max<int64_t>(p.min, 1) - 1;
    int32_t first;
    if (p.max < 0) {  // the part stands there once, however deep such repetitions are nested
      const int32_t behind = choice({next});
      first = follow(*p.parts[0], behind);
      const int32_t again = follow(*p.parts[1], first);
      nfa_.nodes[static_cast<std::size_t>(behind)].free.push_back(again);
      for (int64_t i = 0; i < more; ++i) first = follow(*p.parts[0], follow(*p.parts[1], first));
    } else {
      first = follow(*p.parts[0], times(p, more, p.max - 1, next));
    }
    return p.min == 0 ? choice({first, next}) : first;
  }
  int32_t once(const PatternNode& p, int32_t next) {
    next = follow(*p.parts[0], next);
    return p.parts.size() == 2 ? follow(*p.parts[1], next) : next;
  }
  int32_t times(const PatternNode& p, int64_t min, int64_t max, int32_t next) {
    int32_t at = next;
    if (max < 0) {
      at = choice({next});
      const int32_t body = once(p, at);
      nfa_.nodes[static_cast<std::size_t>(at)].free.push_back(body);
    } else {
      for (int64_t i = min; i < max; ++i) at = choice({once(p, at), next});
    }
    for (int64_t i = 0; i < min; ++i) {
      const int32_t before = at;
      at = once(p, at);
      if (at == before) break;  // a part that is empty is so however often it stands there
    }
    return at;
  }

  // Two lanes, before and behind the first part that is there, so that every part stands in the automaton once.
  int32_t listed(const PatternNode& p, int32_t next) {
    int32_t nothing_yet = next, something = next;
    for (std::size_t i = p.optional.size(); i-- > 0;) {
      const int32_t part = follow(*p.parts[i], something);
      const int32_t separated = follow(*p.parts.back(), part);
      nothing_yet = p.optional[i] ? choice({part, nothing_yet}) : part;
      something = p.optional[i] ? choice({separated, something}) : separated;
    }
    return nothing_yet;
  }

  int32_t characters(const CodeSet& set, int32_t next) {
    Bytes shared;  // continuation bytes that lead to the same node
    std::vector<int32_t> nodes;
    for (const auto& [first, last] : set.ranges()) add_range(first, last, next, shared, nodes);
    return nodes.size() == 1 ? nodes[0] : choice(std::move(nodes));
  }
  int32_t byte(uint8_t low, uint8_t high, int32_t next, Bytes& shared) {
    const auto [at, added] = shared.try_emplace({low, high, next}, 0);
    if (added) at->second = node({.low = low, .high = high, .next = next});
    return at->second;
  }
  // Cuts first .. last until each byte of the encoding ranges by itself.
  void add_range(uint32_t first, uint32_t last, int32_t next, Bytes& shared, std::vector<int32_t>& nodes) {
    for (const uint32_t limit : {0x7Fu, 0x7FFu, 0xFFFFu})
      if (first <= limit && last > limit) {
        add_range(first, limit, next, shared, nodes);
        return add_range(limit + 1, last, next, shared, nodes);
      }
    const int more = last <= 0x7F ? 0 : last <= 0x7FF ? 1 : last <= 0xFFFF ? 2 : 3;
    for (int i = 1; i <= more; ++i) {
      const uint32_t low_bits = (1u << (6 * i)) - 1;
      if ((first & ~low_bits) == (last & ~low_bits)) continue;
      if ((first & low_bits) != 0) {
        add_range(first, first | low_bits, next, shared, nodes);
        return add_range((first | low_bits) + 1, last, next, shared, nodes);
      }
      if ((last & low_bits) != low_bits) {
        add_range(first, (last & ~low_bits) - 1, next, shared, nodes);
        return add_range(last & ~low_bits, last, next, shared, nodes);
      }
    }
    for (int i = 0; i < more; ++i) {
      auto part = [&](uint32_t code) { return static_cast<uint8_t>(0x80 | (code >> (6 * i) & 0x3F)); };
      next = byte(part(first), part(last), next, shared);
    }
    constexpr uint32_t kMark[] = {0, 0xC0, 0xE0, 0xF0};
    auto lead = [&](uint32_t code) { return static_cast<uint8_t>(kMark[more] | code >> (6 * more)); };
    nodes.push_back(byte(lead(first), lead(last), next, shared));
  }

  const CodeSet& writable_;
  Nfa nfa_;
};

void mark_useful(Nfa& nfa) {
  std::vector<std::vector<int32_t>> before(nfa.nodes.size());
  for (std::size_t i = 0; i < nfa.nodes.size(); ++i) {
    const NfaNode& n = nfa.nodes[i];
    if (n.next >= 0) before[static_cast<std::size_t>(n.next)].push_back(static_cast<int32_t>(i));
    for (const int32_t to : n.free) before[static_cast<std::size_t>(to)].push_back(static_cast<int32_t>(i));
  }
  std::vector<int32_t> left{nfa.end};
  nfa.nodes[static_cast<std::size_t>(nfa.end)].useful = true;
  while (!left.empty()) {
    const int32_t at = left.back();
    left.pop_back();
    for (const int32_t from : before[static_cast<std::size_t>(at)]) {
      NfaNode& n = nfa.nodes[static_cast<std::size_t>(from)];
      if (!n.useful) n.useful = true, left.push_back(from);
    }
  }
}

}  // namespace nfa_file

Nfa make_nfa(const Pattern& pattern, const CodeSet& writable) {
  Nfa nfa = nfa_file::Maker(writable).make(pattern);
  nfa_file::mark_useful(nfa);
  require(nfa.nodes[static_cast<std::size_t>(nfa.start)].useful, "no text of this vocabulary fits the pattern");
  return nfa;
}

}  // namespace rattan::infer
