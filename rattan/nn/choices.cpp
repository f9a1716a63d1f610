#include "rattan/nn/choices.h"

#include "rattan/base/error.h"

namespace rattan::nn {

at::Tensor Choices::pick(const std::string& key, const std::function<at::Tensor()>& make) {
  auto place = recorded_.find(key);
  if (replaying_) {
    if (place == recorded_.end()) fail("the choice '{}' is replayed but was never recorded", key);
    return place->second;
  }
  return recorded_[key] = make();
}

}  // namespace rattan::nn
