// Work that is the same at every call, recorded once and replayed: on a GPU a replay costs the host one launch
// instead of one for every kernel.
#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>

namespace rattan::infer {

class StepGraph {
 public:
  // With `wanted` off, or on a CPU, nothing is ever recorded.
  StepGraph(at::Device device, bool wanted);
  ~StepGraph();

  // Does the work, in order with what else the current stream is given. The first call runs it as it is, which also
  // makes what is made once (handles, casts of weights, tables); the second records it; from then on it is replayed.
  // So the work reads and writes the same tensors at every call, and none of it may wait for the device. Tensors that
  // it makes belong to the recording: they stay where they are and every replay writes them anew.
  void run(const std::function<void()>& work);
  bool recorded() const;

 private:
  struct Recording;
  at::Device device_;
  bool wanted_;
  [[maybe_unused]] bool warm_ = false;  // a build without CUDA records nothing
  std::unique_ptr<Recording> recording_;
};

}  // namespace rattan::infer
