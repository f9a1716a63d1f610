// Where a TokenStream stands: a cursor for every source, and the draw between them.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "rattan/data/dataset.h"
#include "rattan/data/permutation.h"
#include "rattan/data/stream.h"

namespace rattan {

// Walks the units (windows of the grid, or documents) of one source, epoch after epoch.
class SourceCursor {
 public:
  SourceCursor(const StreamConfig& config, std::size_t index);  // InputError

  const Dataset& data() const { return *data_; }
  int64_t unit() const { return order_ ? (*order_)(index_) : index_; }
  int64_t offset() const { return offset_; }  // within a document: where its next piece starts
  void set_offset(int64_t offset) { offset_ = offset; }
  void advance();  // to the next unit

  bool exhausted() const { return epochs_ > 0 && epoch_ >= epochs_; }
  double weight() const { return weight_; }            // as the config says
  double unit_weight() const { return unit_weight_; }  // chance of a draw, so that tokens follow the weights
  double passes() const {
    return static_cast<double>(epoch_) + static_cast<double>(index_) / static_cast<double>(units_);
  }

  int64_t epoch() const { return epoch_; }
  int64_t index() const { return index_; }
  bool can_stand_at(int64_t epoch, int64_t index, int64_t offset) const;
  void stand_at(int64_t epoch, int64_t index, int64_t offset);

 private:
  void reorder();

  std::unique_ptr<Dataset> data_;
  bool shuffled_;
  uint64_t seed_;
  uint64_t number_;
  int64_t epochs_, units_, longest_offset_;
  double weight_, unit_weight_;
  int64_t epoch_ = 0, index_ = 0, offset_ = 0;
  std::unique_ptr<Permutation> order_;
};

class Mixture {
 public:
  Mixture(const StreamConfig& config, std::vector<SourceCursor> sources);

  // The source that gives the next unit, -1 when all are exhausted. Stays the same until advance().
  int choose();
  void advance();

  SourceCursor& source(int i) { return sources_[static_cast<std::size_t>(i)]; }
  double epoch() const;

  std::string position() const;
  void restore(const std::string& position);

 private:
  bool sequential_;
  uint64_t seed_, signature_, draws_ = 0;
  int current_ = -1;
  std::vector<SourceCursor> sources_;
};

}  // namespace rattan
