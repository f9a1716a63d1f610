// Discrete or random decisions of a forward pass (dropout masks, top-k, halting): made once, then replayed
// bit for bit in activation recomputation and in gradient checks.
#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <string>

namespace rattan::nn {

class Choices {
 public:
  // The choice under `key`: `make()` and recorded the first time, what was recorded while replaying.
  // Keys are made unique by the caller, usually "<slot>.<name>".
  at::Tensor pick(const std::string& key, const std::function<at::Tensor()>& make);

  void replay(bool on) { replaying_ = on; }
  bool replaying() const { return replaying_; }
  void clear() { recorded_.clear(); }

 private:
  std::map<std::string, at::Tensor> recorded_;
  bool replaying_ = false;
};

}  // namespace rattan::nn
