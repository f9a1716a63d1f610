// What activation recomputation need not recompute: results that cost much time for the memory they take. Attention and
// RAT's mixing give theirs to the record that is open on their thread; in the second pass they take them back instead
// of running again.
#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace rattan::ops {

class Kept {
 public:
  // While one lives, `record` (or none, if null) is the one that is open on this thread.
  class Scope {
   public:
    explicit Scope(Kept* record);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Kept* before_;
  };

  // From now on results are handed out again, each once and in the order they came, so that their memory is free when
  // their user's is. When all are gone they are made anew.
  void replay() { replaying_ = true; }

  // What `make` gives, through the record that is open, if one is.
  static std::vector<at::Tensor> results(const std::function<std::vector<at::Tensor>()>& make);

 private:
  std::vector<std::vector<at::Tensor>> results_;
  std::size_t next_ = 0;
  bool replaying_ = false;
};

}  // namespace rattan::ops
