#include "rattan/infer/step_graph.h"

#include <mutex>
#include <utility>

#ifdef RATTAN_WITH_CUDA
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace rattan::infer {

#ifdef RATTAN_WITH_CUDA
namespace step_graph_file {

// Memory that recordings share: they are replayed one at a time, and what one leaves is used before the next runs.
// torch does not take the name of a pool again once the last recording in it is gone, so then there is a new one.
struct Pool {
  at::cuda::MempoolId_t id = at::cuda::graph_pool_handle();
};

std::shared_ptr<Pool> shared_pool() {
  static std::mutex mutex;
  static std::weak_ptr<Pool> current;
  std::lock_guard lock(mutex);
  std::shared_ptr<Pool> pool = current.lock();
  if (!pool) current = pool = std::make_shared<Pool>();
  return pool;
}

}  // namespace step_graph_file

struct StepGraph::Recording {
  std::shared_ptr<step_graph_file::Pool> pool = step_graph_file::shared_pool();  // outlives the graph
  at::cuda::CUDAGraph graph;
};

void StepGraph::run(const std::function<void()>& work) {
  if (!wanted_ || !std::exchange(warm_, true)) return work();
  c10::cuda::CUDAGuard guard(device_);
  if (!recording_) {
    auto recording = std::make_unique<Recording>();
    // What the first call left in the allocator's hands cannot be used by a recording, nor given back while one is
    // made.
    c10::cuda::device_synchronize();
    c10::cuda::CUDACachingAllocator::emptyCache();
    // The default stream cannot be recorded. Other threads may go on using the device meanwhile.
    c10::cuda::CUDAStreamGuard stream(c10::cuda::getStreamFromPool(false, device_.index()));
    recording->graph.capture_begin(recording->pool->id, cudaStreamCaptureModeThreadLocal);
    try {
      work();
    } catch (...) {
      // The error of the work says more than the one that ending a broken recording brings.
      try {
        recording->graph.capture_end();
      } catch (...) {
      }
      throw;
    }
    recording->graph.capture_end();
    recording_ = std::move(recording);
  }
  recording_->graph.replay();
}

StepGraph::StepGraph(at::Device device, bool wanted) : device_(device), wanted_(wanted && device.is_cuda()) {}
#else
struct StepGraph::Recording {};
void StepGraph::run(const std::function<void()>& work) { work(); }
StepGraph::StepGraph(at::Device device, bool) : device_(device), wanted_(false) {}
#endif

StepGraph::~StepGraph() = default;

bool StepGraph::recorded() const { return wanted_ && recording_ != nullptr; }

}  // namespace rattan::infer
