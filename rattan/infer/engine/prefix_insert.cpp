// What the cache takes in, and what it gives up.
#include <algorithm>

#include "rattan/infer/engine/prefix_cache.h"
#include "rattan/infer/engine/prefix_hash.h"
#include "rattan/infer/engine/prefix_node.h"

namespace rattan::infer {
namespace prefix_insert_file {

// Tokens of an edge at most: what is evicted at once.
constexpr int64_t edge_tokens = 2048;
// Beginnings remembered after they were evicted, to tell why they are missed.
constexpr std::size_t remembered = 1 << 16;

int64_t bytes_of(const std::vector<at::Tensor>& parts) {
  int64_t total = 0;
  for (const at::Tensor& part : parts) total += part.defined() ? static_cast<int64_t>(part.nbytes()) : 0;
  return total;
}

}  // namespace prefix_insert_file

void PrefixCache::insert(Ids ids, int64_t row) {
  if (!config_.enabled || ids.empty()) return;
  const auto parts = [&](std::size_t g, int64_t from, int64_t to) { return store_.groups()[g].part(row, from, to); };
  insert(ids, parts, needs_snapshots_);
}

bool PrefixCache::insert(Ids ids, const Parts& parts, bool snapshot) {
  const int64_t whole = static_cast<int64_t>(ids.size()) / grain_ * grain_;
  protect_ = tick_ + 1;
  refresh(find(ids), std::ssize(ids));
  Node* node = extend_path(ids, whole, parts, snapshot);
  const bool done = node && (!snapshot || add_snapshot(*node, ids, parts));
  refresh(find(ids), std::ssize(ids));
  return done;
}

PrefixCache::Node* PrefixCache::extend_path(Ids ids, int64_t n, const Parts& parts, bool ends_there) {
  Node* node = root_.get();
  while (node->end() < n) {
    const auto rest = ids.subspan(static_cast<std::size_t>(node->end()), static_cast<std::size_t>(n - node->end()));
    const Node::Key key(rest.begin(), rest.begin() + grain_);
    const auto known = node->children.find(key);
    if (known == node->children.end()) {
      node = add_child(*node, rest, parts);
      if (!node) return nullptr;
      continue;
    }
    Node& child = *known->second;
    const auto same = std::mismatch(child.tokens.begin(), child.tokens.end(), rest.begin(), rest.end()).first;
    const int64_t common = (same - child.tokens.begin()) / grain_ * grain_;
    const bool ends_within = common == std::ssize(rest);
    if (common == std::ssize(child.tokens)) {
      node = &child;
    } else if (ends_within && !ends_there) {
      return &child;
    } else {
      node = split(child, common);
    }
  }
  return node;
}

PrefixCache::Node* PrefixCache::add_child(Node& parent, Ids rest, const Parts& parts) {
  const int64_t most = std::max(grain_, prefix_insert_file::edge_tokens / grain_ * grain_);
  const auto n = static_cast<std::size_t>(std::min<int64_t>(std::ssize(rest), most));
  auto child = std::make_unique<Node>();
  child->parent = &parent;
  child->begin = parent.end();
  child->tokens.assign(rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(n));
  child->hash = prefix_hash(parent.hash, parent.tokens);
  child->bytes = static_cast<int64_t>(n * sizeof(int32_t));
  for (const StateStore::Group& group : store_.groups())
    if (group.grows()) child->bytes += static_cast<int64_t>(n) / group.field.every * group.entry_bytes();
  if (!room(child->bytes)) return nullptr;
  for (std::size_t g = 0; g < store_.groups().size(); ++g) {
    const int64_t every = store_.groups()[g].field.every;
    child->parts.push_back(every > 0 ? parts(g, child->begin / every, child->end() / every).clone() : at::Tensor());
  }
  child->tick = ++tick_;
  by_use_[child->tick] = {child.get(), nullptr};
  Node::Key key(rest.begin(), rest.begin() + grain_);
  return (parent.children[std::move(key)] = std::move(child)).get();
}

// The node becomes its own second part; what it had in front is a new node between it and its parent, which is given
// back. Copies, so that the memory of each part goes with it.
PrefixCache::Node* PrefixCache::split(Node& node, int64_t tokens) {
  const auto cut = node.tokens.begin() + tokens;
  auto front = std::make_unique<Node>();
  front->parent = node.parent;
  front->begin = node.begin;
  front->hash = node.hash;
  front->tokens.assign(node.tokens.begin(), cut);
  for (std::size_t g = 0; g < node.parts.size(); ++g) {
    at::Tensor& part = node.parts[g];
    front->parts.emplace_back();
    if (!part.defined()) continue;
    const int64_t n = tokens / store_.groups()[g].field.every;
    front->parts.back() = part.narrow(1, 0, n).clone();
    part = part.narrow(1, n, part.size(1) - n).clone();
  }
  front->bytes = prefix_insert_file::bytes_of(front->parts) + tokens * static_cast<int64_t>(sizeof(int32_t));
  node.bytes -= front->bytes;
  front->tick = ++tick_;
  by_use_[front->tick] = {front.get(), nullptr};

  const Node::Key key(node.tokens.begin(), node.tokens.begin() + grain_);
  std::unique_ptr<Node>& place = node.parent->children.at(key);
  std::unique_ptr<Node> back = std::move(place);
  back->hash = prefix_hash(front->hash, front->tokens);
  back->begin += tokens;
  back->tokens.erase(back->tokens.begin(), cut);
  back->parent = front.get();
  front->children[Node::Key(back->tokens.begin(), back->tokens.begin() + grain_)] = std::move(back);
  place = std::move(front);
  return place.get();
}

bool PrefixCache::add_snapshot(Node& node, Ids ids, const Parts& parts) {
  const auto n = static_cast<int64_t>(ids.size());
  const Ids tail = ids.subspan(static_cast<std::size_t>(node.end()));
  for (const auto& known : node.snapshots)
    if (std::equal(known->tail.begin(), known->tail.end(), tail.begin(), tail.end())) return true;
  auto snapshot = std::make_unique<Snapshot>();
  snapshot->node = &node;
  snapshot->tokens = n;
  snapshot->tail.assign(tail.begin(), tail.end());
  std::vector<std::pair<int64_t, int64_t>> ranges;  // entries of each group
  snapshot->bytes = static_cast<int64_t>(tail.size() * sizeof(int32_t));
  for (std::size_t g = 0; g < store_.groups().size(); ++g) {
    const StateStore::Group& group = store_.groups()[g];
    const int64_t from = group.grows() ? node.end() / group.field.every : 0;
    const bool needed = group.grows() || !resumes(g, n);
    ranges.emplace_back(from, needed ? group.entries(n) : from);
    snapshot->bytes += (ranges.back().second - from) * group.entry_bytes();
  }
  if (!room(snapshot->bytes)) return false;
  for (std::size_t g = 0; g < ranges.size(); ++g) {
    const auto [from, to] = ranges[g];
    snapshot->parts.push_back(from < to ? parts(g, from, to).clone() : at::Tensor());
  }
  snapshot->tick = ++tick_;
  by_use_[snapshot->tick] = {&node, snapshot.get()};
  node.snapshots.push_back(std::move(snapshot));
  return true;
}

bool PrefixCache::room(int64_t bytes) {
  while (!memory_.keep(bytes))
    if (by_use_.empty() || by_use_.begin()->first >= protect_ || !evict_one()) return false;
  return true;
}

bool PrefixCache::evict_one() {
  if (by_use_.empty()) return false;
  const auto [node, snapshot] = by_use_.begin()->second;
  by_use_.erase(by_use_.begin());
  ++evictions_;
  if (snapshot) {
    memory_.give(snapshot->bytes);
    std::erase_if(node->snapshots, [&](const auto& s) { return s.get() == snapshot; });
    return true;
  }
  // Nothing is used less recently than what stands on it, so this node has neither children nor snapshots.
  memory_.give(node->bytes);
  const Ids block = Ids(node->tokens).first(static_cast<std::size_t>(grain_));
  if (evicted_.size() >= prefix_insert_file::remembered) evicted_.clear();
  evicted_.insert(prefix_hash(node->hash, block));
  node->parent->children.erase(Node::Key(block.begin(), block.end()));
  return true;
}

}  // namespace rattan::infer
