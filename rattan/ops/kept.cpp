#include "rattan/ops/kept.h"

#include <utility>

namespace rattan::ops {
namespace kept_file {

thread_local Kept* open = nullptr;

}  // namespace kept_file

Kept::Scope::Scope(Kept* record) : before_(std::exchange(kept_file::open, record)) {}
Kept::Scope::~Scope() { kept_file::open = before_; }

std::vector<at::Tensor> Kept::results(const std::function<std::vector<at::Tensor>()>& make) {
  Kept* record = kept_file::open;
  if (!record) return make();
  if (!record->replaying_) {
    std::vector<at::Tensor> made = make();
    // Without the outputs' history: it would keep the whole first pass alive.
    std::vector<at::Tensor>& kept = record->results_.emplace_back();
    for (const at::Tensor& t : made) kept.push_back(t.defined() ? t.detach() : t);
    return made;
  }
  if (record->next_ >= record->results_.size()) return make();
  return std::exchange(record->results_[record->next_++], {});
}

}  // namespace rattan::ops
