// Makes parallel_for run on torch's OpenMP team (see base/parallel.h for why).
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>

#include "rattan/base/parallel.h"

namespace rattan::ops {
namespace runtime_file {

void run_on_openmp(int64_t tasks, void (*body)(void*, int64_t), void* context) {
  const int team = static_cast<int>(std::min<int64_t>({tasks, threads(), at::get_num_threads()}));
  if (team <= 1 || at::in_parallel_region()) {
    for (int64_t i = 0; i < tasks; ++i) body(context, i);
    return;
  }
  std::exception_ptr error;
  std::mutex error_mutex;
  std::atomic<bool> failed{false};
#pragma omp parallel for schedule(dynamic, 1) num_threads(team)
  for (int64_t i = 0; i < tasks; ++i) {
    if (failed) continue;
    try {
      body(context, i);
    } catch (...) {
      std::lock_guard lock(error_mutex);
      if (!error) error = std::current_exception();
      failed = true;
    }
  }
  if (error) std::rethrow_exception(error);
}

const bool installed = (set_parallel_runtime(run_on_openmp), true);

}  // namespace runtime_file
}  // namespace rattan::ops
