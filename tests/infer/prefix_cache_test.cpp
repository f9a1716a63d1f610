// The tree of cached prefixes against a plain list of texts, under a memory that is too small for all of them.
#include "rattan/infer/engine/prefix_cache.h"

#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>

#include "tests/infer/engine_tools.h"

namespace rattan::infer::prefix_cache_test {

using Ids = std::vector<int32_t>;

// A store whose entries tell which text they belong to, with fields of every kind.
struct Fixture {
  explicit Fixture(int64_t budget, bool resumes = true) {
    spec.fields = {{.name = "a", .dtype = at::kFloat, .shape = {2}, .every = 4},
                   {.name = "state", .dtype = at::kFloat, .shape = {3}}};
    spec.resume = resumes ? 4 : 0;
    spec.child["x"].fields = {{.name = "b", .dtype = at::kFloat, .shape = {1}, .every = 2}};
    spec.child["x"].resume = 2;
    if (!resumes) {
      spec.child["y"].fields = {{.name = "ring", .dtype = at::kFloat, .shape = {1}, .cap = 5}};
      spec.child["y"].resume = 0;
    }
    store.emplace(spec, 2, 64, at::kFloat, at::kCPU);
    memory.emplace(*store, 2, budget, [this] { return cache->evict_one(); });
    cache.emplace(*store, spec, *memory, CacheConfig{.enabled = true, .snapshot_every = 8});
  }

  // What a model would leave: every entry a function of the tokens up to the last one it covers.
  void fill(const Ids& ids, int64_t row) {
    const auto n = static_cast<int64_t>(ids.size());
    for (const StateStore::Group& g : store->groups()) {
      const int64_t first = g.ring() ? std::max<int64_t>(0, n - g.field.cap) : 0;
      const int64_t count = g.grows() ? g.entries(n) : g.ring() ? n : 1;
      for (int64_t e = first; e < count; ++e) {
        const int64_t covers = g.grows() ? std::min(n, (e + 1) * g.field.every) : g.ring() ? e + 1 : n;
        float value = 0;
        for (int64_t i = 0; i < covers; ++i) value = value * 0.7f + static_cast<float>(ids[static_cast<size_t>(i)]);
        at::Tensor part = g.ring() ? g.part(row, e % g.field.cap, e % g.field.cap + 1) : g.part(row, e, e + 1);
        part.fill_(value);
      }
    }
  }

  void put(const Ids& ids) {
    fill(ids, 0);
    cache->insert(ids, 0);
  }

  nn::StateSpec spec;
  std::optional<StateStore> store;
  std::optional<Memory> memory;
  std::optional<PrefixCache> cache;
};

Ids text(Rng& rng, int64_t n) {
  Ids ids;
  for (int64_t i = 0; i < n; ++i) ids.push_back(static_cast<int32_t>(rng.below(2)));  // so that beginnings are shared
  return ids;
}

// The longest beginning of `ids` that a text in `known` shares.
int64_t shared(const std::vector<Ids>& known, const Ids& ids) {
  int64_t longest = 0;
  for (const Ids& k : known) {
    const auto n = std::min(k.size(), ids.size());
    longest = std::max<int64_t>(
        longest, std::mismatch(k.begin(), k.begin() + static_cast<int64_t>(n), ids.begin()).first - k.begin());
  }
  return longest;
}

// All that is known, or less where memory is tight.
void expect_found(int64_t n, int64_t most, bool tight) {
  if (tight) {
    EXPECT_LE(n, most);
  } else {
    EXPECT_EQ(n, most);
  }
}

class PrefixCacheTest : public testing::TestWithParam<bool> {};

TEST_P(PrefixCacheTest, GivesTheStatesThatWerePutIn) {
  const bool resumes = GetParam();
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Rng rng(seed);
    const bool tight = seed % 2 == 0;
    Fixture f(tight ? 1500 : 1 << 20, resumes);
    std::vector<Ids> known;
    for (int step = 0; step < 60; ++step) {
      Ids ids = text(rng, 1 + static_cast<int64_t>(rng.below(40)));
      if (rng.below(2) && !known.empty()) {  // goes on from an earlier text
        Ids longer = known[rng.below(known.size())];
        longer.insert(longer.end(), ids.begin(), ids.end());
        longer.resize(std::min<std::size_t>(longer.size(), 60));
        ids = longer;
      }
      if (rng.below(2)) {
        f.put(ids);
        known.push_back(ids);
      } else {
        f.fill(Ids(64, 9), 1);
        const int64_t n = f.cache->restore(ids, 1);
        ASSERT_LE(n, std::ssize(ids));
        if (resumes) {
          ASSERT_EQ(n % 4, 0);
          expect_found(n, shared(known, ids) / 4 * 4, tight);
        } else {
          int64_t most = 0;
          for (const Ids& k : known)
            if (k.size() <= ids.size() && std::equal(k.begin(), k.end(), ids.begin()))
              most = std::max<int64_t>(most, std::ssize(k));
          expect_found(n, most, tight);
        }
        // Row 0 holds what a model would have left; fixed fields are only promised with a snapshot.
        f.fill(Ids(ids.begin(), ids.begin() + n), 0);
        for (const StateStore::Group& g : f.store->groups()) {
          if (n == 0 || (resumes && !g.grows() && !g.ring())) continue;
          ASSERT_TRUE(at::equal(g.part(0, 0, g.entries(n)), g.part(1, 0, g.entries(n)))) << g.members.front();
        }
      }
      ASSERT_LE(f.memory->row_bytes() + f.memory->kept_bytes(), f.memory->budget());
    }
    EXPECT_EQ(f.cache->evictions() > 0, tight);
    while (f.cache->evict_one()) {
    }
    EXPECT_EQ(f.memory->kept_bytes(), 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Specs, PrefixCacheTest, testing::Bool(),
                         [](const auto& info) { return info.param ? "ResumesAtChunks" : "NeedsSnapshots"; });

TEST(PrefixCache, SaysWhyItMissed) {
  Fixture f(1 << 20);
  Rng rng(3);
  const Ids a = text(rng, 40);
  EXPECT_EQ(f.cache->restore(a, 1), 0);
  f.put(a);
  EXPECT_EQ(f.cache->restore(Ids(a.begin(), a.begin() + 3), 1), 0);
  EXPECT_EQ(f.cache->restore(a, 1), 40);
  while (f.cache->evict_one()) {
  }
  EXPECT_EQ(f.cache->restore(a, 1), 0);
  EXPECT_EQ(f.cache->misses(), (std::map<std::string, uint64_t>{{"evicted", 1}, {"new", 1}, {"short", 1}}));
  EXPECT_EQ(f.cache->hits(), 1u);

  Fixture g(1 << 20, false);
  g.put(a);
  EXPECT_EQ(g.cache->restore(Ids(a.begin(), a.begin() + 30), 1), 0);
  EXPECT_EQ(g.cache->misses().at("no_resume_point"), 1u);
}

TEST(PrefixCache, WhatWasUsedLeastRecentlyGivesWay) {
  Fixture f(1 << 20);
  const Ids a(32, 1), b(32, 2), c(32, 3);
  for (const Ids& ids : {a, b, c}) f.put(ids);
  f.cache->restore(a, 1);
  ASSERT_TRUE(f.cache->evict_one());
  EXPECT_EQ(f.cache->restore(b, 1), 0);
  EXPECT_EQ(f.cache->restore(a, 1), 32);
  EXPECT_EQ(f.cache->restore(c, 1), 32);
}

}  // namespace rattan::infer::prefix_cache_test
