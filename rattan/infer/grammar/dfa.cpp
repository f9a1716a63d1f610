#include "rattan/infer/grammar/dfa.h"

#include <algorithm>
#include <bitset>
#include <map>

#include "rattan/base/error.h"

namespace rattan::infer {
namespace dfa_file {

constexpr int64_t kMaxWork = 50'000'000;  // nodes looked at; under a second

// Sets of nodes that read a byte or end, closed over the free steps.
class Sets {
 public:
  using Set = std::vector<int32_t>;

  explicit Sets(const Nfa& nfa) : nfa_(nfa), seen_(nfa.nodes.size(), 0) {}

  Set closure(const Set& from) {
    ++round_;
    Set out;
    left_.clear();
    for (const int32_t node : from) visit(node);
    while (!left_.empty()) {
      const int32_t at = left_.back();
      left_.pop_back();
      const NfaNode& n = nfa_.nodes[static_cast<std::size_t>(at)];
      if (n.next >= 0 || at == nfa_.end) out.push_back(at);
      for (const int32_t to : n.free) visit(to);
    }
    std::sort(out.begin(), out.end());
    return out;
  }
  Set step(const Set& from, uint8_t byte) {
    work(static_cast<int64_t>(from.size()));
    Set out;
    for (const int32_t at : from) {
      const NfaNode& n = nfa_.nodes[static_cast<std::size_t>(at)];
      if (n.low <= byte && byte <= n.high) out.push_back(n.next);
    }
    return out.empty() ? out : closure(out);
  }

 private:
  void visit(int32_t node) {
    work(1);
    auto& seen = seen_[static_cast<std::size_t>(node)];
    if (seen == round_ || !nfa_.nodes[static_cast<std::size_t>(node)].useful) return;
    seen = round_;
    left_.push_back(node);
  }
  void work(int64_t amount) {
    work_ += amount;
    require(work_ <= kMaxWork, "the pattern is too complex: repetitions of choices that start alike multiply");
  }

  const Nfa& nfa_;
  std::vector<uint32_t> seen_;
  uint32_t round_ = 0;
  Set left_;
  int64_t work_ = 0;
};

}  // namespace dfa_file

Dfa::Dfa(const Nfa& nfa) {
  std::bitset<257> cut;  // a class starts here
  for (const NfaNode& n : nfa.nodes)
    if (n.low <= n.high) cut.set(n.low), cut.set(n.high + std::size_t{1});
  std::vector<uint8_t> first_byte{0};
  for (std::size_t byte = 1; byte < 256; ++byte) {
    if (cut[byte]) first_byte.push_back(static_cast<uint8_t>(byte));
    class_of_[byte] = static_cast<uint8_t>(first_byte.size() - 1);
  }
  classes_ = first_byte.size();

  dfa_file::Sets sets(nfa);
  std::map<std::vector<int32_t>, int32_t> known;
  std::vector<const std::vector<int32_t>*> by_state;  // keys of a map stay where they are
  auto state_of = [&](std::vector<int32_t> set) {
    if (set.empty()) return -1;
    const auto [at, added] = known.try_emplace(std::move(set), static_cast<int32_t>(by_state.size()));
    if (added) {
      require(at->second < kMaxStates, "the pattern is too complex: its automaton takes more than {} states",
              kMaxStates);
      by_state.push_back(&at->first);
      ends_.push_back(std::binary_search(at->first.begin(), at->first.end(), nfa.end));
    }
    return at->second;
  };
  state_of(sets.closure({nfa.start}));
  for (std::size_t state = 0; state < by_state.size(); ++state)
    for (const uint8_t byte : first_byte) to_.push_back(state_of(sets.step(*by_state[state], byte)));
}

}  // namespace rattan::infer
