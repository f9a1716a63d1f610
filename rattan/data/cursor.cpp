#include "rattan/data/cursor.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "rattan/base/error.h"
#include "rattan/base/random.h"
#include "rattan/data/checksum.h"

namespace rattan {
namespace cursor_file {

using nlohmann::json;

// Philox streams: the draw between sources, and one for every epoch of every source.
constexpr uint64_t kMixStream = 0x6D69;
uint64_t order_stream(uint64_t source, uint64_t epoch) { return (source + 1) << 40 | epoch; }

// What a position depends on. The size of a batch and the number of epochs are not part of it.
uint64_t make_signature(const StreamConfig& config, const std::vector<SourceCursor>& sources) {
  std::string text =
      fmt::format("{} {} {} {} {}", config.split, config.layout, config.seq_len, config.seed, config.sequential);
  for (const SourceCursor& source : sources) {
    const Manifest& manifest = source.data().manifest();
    text += fmt::format(" {} {}", source.weight(), manifest.tokenizer);
    for (const ShardEntry& shard : manifest.splits.at(config.split).shards) text += " " + shard.checksum;
  }
  return checksum(text);
}

}  // namespace cursor_file

SourceCursor::SourceCursor(const StreamConfig& config, std::size_t index)
    : data_(std::make_unique<Dataset>(config.sources[index].path, config.split)),
      shuffled_(!config.sequential),
      seed_(config.seed),
      number_(index),
      epochs_(config.sequential ? std::max<int64_t>(1, config.epochs) : config.epochs),
      weight_(config.sources[index].weight) {
  const std::string& path = config.sources[index].path;
  require(std::isfinite(weight_) && weight_ > 0, "data: the weight of {} must be a positive number, got {}", path,
          weight_);
  int64_t tokens = data_->tokens();
  if (config.layout == "concat") {
    require(tokens >= 2, "{}: split \"{}\" has {} tokens; at least 2 are needed", path, config.split, tokens);
    int64_t inputs = tokens - 1, T = config.seq_len;
    units_ = config.sequential ? (inputs + T - 1) / T : std::max<int64_t>(1, inputs / T);
    longest_offset_ = 0;
  } else {
    units_ = data_->documents();
    require(tokens > units_, "{}: split \"{}\" has no document of 2 or more tokens", path, config.split);
    longest_offset_ = tokens;
  }
  double tokens_per_unit = config.layout == "concat" ? 1.0 : static_cast<double>(tokens) / static_cast<double>(units_);
  unit_weight_ = weight_ / tokens_per_unit;
  reorder();
}

void SourceCursor::reorder() {
  if (shuffled_)
    order_ =
        std::make_unique<Permutation>(units_, seed_, cursor_file::order_stream(number_, static_cast<uint64_t>(epoch_)));
}

void SourceCursor::advance() {
  offset_ = 0;
  if (++index_ < units_) return;
  index_ = 0;
  ++epoch_;
  reorder();
}

bool SourceCursor::can_stand_at(int64_t epoch, int64_t index, int64_t offset) const {
  return epoch >= 0 && epoch < int64_t{1} << 40 && index >= 0 && index < units_ && offset >= 0 &&
         offset <= longest_offset_;
}

void SourceCursor::stand_at(int64_t epoch, int64_t index, int64_t offset) {
  epoch_ = epoch;
  index_ = index;
  offset_ = offset;
  reorder();
}

Mixture::Mixture(const StreamConfig& config, std::vector<SourceCursor> sources)
    : sequential_(config.sequential),
      seed_(config.seed),
      signature_(cursor_file::make_signature(config, sources)),
      sources_(std::move(sources)) {}

int Mixture::choose() {
  if (current_ >= 0) return current_;
  double total = 0;
  int last = -1, first = -1;
  for (std::size_t i = 0; i < sources_.size(); ++i) {
    if (sources_[i].exhausted()) continue;
    last = static_cast<int>(i);
    if (first < 0) first = last;
    total += sources_[i].unit_weight();
  }
  if (last < 0) return -1;
  current_ = first;
  if (sequential_ || first == last) return current_;
  Rng rng(seed_, cursor_file::kMixStream);
  rng.set_position(draws_++);
  double left = rng.uniform() * total;
  for (int i = first; i <= last; ++i) {
    if (source(i).exhausted()) continue;
    current_ = i;
    left -= source(i).unit_weight();
    if (left < 0) break;
  }
  return current_;
}

void Mixture::advance() {
  source(current_).advance();
  current_ = -1;
}

double Mixture::epoch() const {
  double sum = 0, total = 0;
  for (const SourceCursor& source : sources_) {
    sum += source.passes() * source.weight();
    total += source.weight();
  }
  return sum / total;
}

std::string Mixture::position() const {
  using cursor_file::json;
  json sources = json::array();
  for (const SourceCursor& source : sources_)
    sources.push_back({{"epoch", source.epoch()}, {"index", source.index()}, {"offset", source.offset()}});
  return json{{"data", checksum_text(signature_)}, {"draws", draws_}, {"current", current_}, {"sources", sources}}
      .dump();
}

void Mixture::restore(const std::string& position) {
  using cursor_file::json;
  json value = json::parse(position, nullptr, false);
  auto damaged = [&](bool holds) { require(holds, "damaged data position: {}", position); };
  auto number = [&](const json& object, const char* key) {
    damaged(object.is_object() && object.contains(key) && object[key].is_number_integer());
    return object[key].get<int64_t>();
  };
  damaged(value.is_object() && value.contains("data") && value.contains("sources") && value["sources"].is_array());
  require(value["data"] == checksum_text(signature_),
          "this data position belongs to other data or another data config (sources and their weights, split, "
          "layout, sequence length, seed); restore those, or start anew");
  const json& sources = value["sources"];
  int64_t draws = number(value, "draws"), current = number(value, "current");
  damaged(sources.size() == sources_.size() && draws >= 0 && current >= -1 &&
          current < static_cast<int64_t>(sources.size()));
  for (std::size_t i = 0; i < sources_.size(); ++i)
    damaged(sources_[i].can_stand_at(number(sources[i], "epoch"), number(sources[i], "index"),
                                     number(sources[i], "offset")));
  for (std::size_t i = 0; i < sources_.size(); ++i)
    sources_[i].stand_at(number(sources[i], "epoch"), number(sources[i], "index"), number(sources[i], "offset"));
  draws_ = static_cast<uint64_t>(draws);
  current_ = static_cast<int>(current);
}

}  // namespace rattan
