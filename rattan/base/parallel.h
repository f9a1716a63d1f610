// Data-parallel loops with a fixed partition.
//
// A loop is cut into tasks by the shape of its data alone, never by the number of threads, and each task
// writes its own outputs; so results do not depend on the number of threads. Tasks are handed out
// dynamically. The runtime behind the loop can be exchanged: the torch operators install torch's own
// OpenMP team, since two teams that spin on the same cores halve the speed of both.
#pragma once
#include <cstdint>
#include <type_traits>

namespace rattan {

// Runs body(context, i) for every i in [0, tasks) and returns when all are done.
// An exception thrown by a body is rethrown on the calling thread (the first one, by time).
using ParallelRuntime = void (*)(int64_t tasks, void (*body)(void* context, int64_t task), void* context);

void set_parallel_runtime(ParallelRuntime runtime);
void run_parallel(int64_t tasks, void (*body)(void* context, int64_t task), void* context);

// Number of threads of the built-in pool (used until another runtime is installed). 0: one a core.
void set_threads(int threads);
int threads();

template <class Body>
void parallel_for(int64_t tasks, Body&& body) {
  using Plain = std::remove_reference_t<Body>;
  run_parallel(
      tasks, [](void* context, int64_t task) { (*static_cast<Plain*>(context))(task); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

[[gnu::always_inline]] inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace rattan
