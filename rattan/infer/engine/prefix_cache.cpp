// What the cache knows of a text, and giving it out.
#include "rattan/infer/engine/prefix_cache.h"

#include <algorithm>
#include <numeric>

#include "rattan/infer/engine/prefix_hash.h"
#include "rattan/infer/engine/prefix_node.h"

namespace rattan::infer {
namespace prefix_cache_file {

bool resumes_everywhere(const nn::StateSpec& spec) {
  if (!spec.fields.empty() && spec.resume == 0) return false;
  return std::all_of(spec.child.begin(), spec.child.end(),
                     [](const auto& entry) { return resumes_everywhere(entry.second); });
}

}  // namespace prefix_cache_file

PrefixCache::PrefixCache(StateStore& store, const nn::StateSpec& spec, Memory& memory, const CacheConfig& config)
    : store_(store),
      memory_(memory),
      config_(config),
      needs_snapshots_(config.enabled && !prefix_cache_file::resumes_everywhere(spec)),
      root_(std::make_unique<Node>()) {
  for (const StateStore::Group& group : store.groups()) {
    if (group.grows()) grain_ = std::lcm(grain_, group.field.every);
    if (group.resume > 0) resume_ = std::lcm(resume_, group.resume);
  }
}

PrefixCache::~PrefixCache() = default;

int64_t PrefixCache::stop_before(int64_t read, int64_t n) const {
  if (!needs_snapshots_) return n;
  const int64_t next = (read / config_.snapshot_every + 1) * config_.snapshot_every;
  return std::min(n, next - read);
}

bool PrefixCache::resumes(std::size_t group, int64_t tokens) const {
  const int64_t resume = store_.groups()[group].resume;
  return resume > 0 && tokens % resume == 0;
}

PrefixCache::Found PrefixCache::find(Ids ids) const {
  Found found;
  const auto size = static_cast<int64_t>(ids.size());
  uint64_t hash = prefix_hash_start;
  for (Node* node = root_.get();;) {
    for (const auto& snapshot : node->snapshots) {
      const bool longer = snapshot->tokens <= size && snapshot->tokens > found.usable;
      if (longer && std::equal(snapshot->tail.begin(), snapshot->tail.end(), ids.begin() + node->end()))
        found.usable = snapshot->tokens, found.snapshot = snapshot.get();
    }
    const int64_t at = found.matched;
    if (size - at < grain_) break;
    const Ids block = ids.subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(grain_));
    const auto child = node->children.find(Node::Key(block.begin(), block.end()));
    if (child == node->children.end()) {
      found.evicted = evicted_.contains(prefix_hash(hash, block));
      break;
    }
    node = child->second.get();
    found.path.push_back(node);
    const auto rest = ids.subspan(static_cast<std::size_t>(at));
    const auto differs = std::mismatch(node->tokens.begin(), node->tokens.end(), rest.begin(), rest.end()).first;
    found.matched += differs - node->tokens.begin();
    if (differs != node->tokens.end()) break;
    hash = prefix_hash(hash, node->tokens);
  }
  if (const int64_t free = found.matched / resume_ * resume_; !needs_snapshots_ && free >= found.usable)
    found.usable = free, found.snapshot = nullptr;
  return found;
}

// Deepest first, so that no one is used less recently than what stands on it.
void PrefixCache::refresh(const Found& found, int64_t upto) {
  auto renew = [&](uint64_t& tick, Node* node, Snapshot* snapshot) {
    by_use_.erase(tick);
    tick = ++tick_;
    by_use_[tick] = {node, snapshot};
  };
  if (found.snapshot) renew(found.snapshot->tick, found.snapshot->node, found.snapshot);
  for (auto node = found.path.rbegin(); node != found.path.rend(); ++node)
    if ((*node)->begin < upto) renew((*node)->tick, *node, nullptr);
}

void PrefixCache::touch(Ids ids) {
  const Found found = find(ids);
  refresh(found, found.usable);
}

int64_t PrefixCache::restore(Ids ids, int64_t row) {
  if (!config_.enabled) {
    ++misses_["disabled"];
    return 0;
  }
  const Found found = find(ids);
  if (found.usable == 0) {
    ++misses_[reason(found, ids)];
    return 0;
  }
  refresh(found, found.usable);
  copy_out(found, row);
  ++hits_;
  return found.usable;
}

const char* PrefixCache::reason(const Found& found, Ids ids) const {
  if (static_cast<int64_t>(ids.size()) < (needs_snapshots_ ? 1 : resume_)) return "short";
  if (found.evicted) return "evicted";
  return found.matched > 0 ? "no_resume_point" : "new";
}

void PrefixCache::copy_out(const Found& found, int64_t row) const {
  const int64_t shared = found.snapshot ? found.snapshot->node->end() : found.usable;
  for (std::size_t g = 0; g < store_.groups().size(); ++g) {
    const StateStore::Group& group = store_.groups()[g];
    for (const Node* node : found.path) {
      if (!group.grows() || node->begin >= shared) break;
      const int64_t from = node->begin / group.field.every, to = group.entries(std::min(node->end(), shared));
      group.part(row, from, to).copy_(node->parts[g].narrow(1, 0, to - from));
    }
    if (!found.snapshot || !found.snapshot->parts[g].defined()) continue;
    const at::Tensor& part = found.snapshot->parts[g];
    const int64_t from = group.grows() ? shared / group.field.every : 0;
    group.part(row, from, group.entries(found.usable)).copy_(part);
  }
}

}  // namespace rattan::infer
