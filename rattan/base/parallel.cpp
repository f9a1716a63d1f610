#include "rattan/base/parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace rattan {
namespace parallel_file {

struct Loop {
  int64_t tasks;
  void (*body)(void*, int64_t);
  void* context;
  std::atomic<int64_t> next{0};
  std::exception_ptr error;
  std::mutex error_mutex;

  void work() {
    for (int64_t i = next.fetch_add(1); i < tasks; i = next.fetch_add(1)) {
      try {
        body(context, i);
      } catch (...) {
        std::lock_guard lock(error_mutex);
        if (!error) error = std::current_exception();
        next.store(tasks);
      }
    }
  }
};

thread_local bool inside_loop = false;

// Workers sleep between loops. One loop runs at a time; a nested loop runs on its caller alone.
class Pool {
 public:
  explicit Pool(int workers) {
    for (int i = 0; i < workers; ++i) threads_.emplace_back([this] { serve(); });
  }
  ~Pool() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (auto& thread : threads_) thread.join();
  }
  int size() const { return static_cast<int>(threads_.size()) + 1; }

  void run(Loop& loop) {
    {
      std::lock_guard lock(mutex_);
      loop_ = &loop;
      ++round_;
      busy_ = static_cast<int>(threads_.size());
    }
    wake_.notify_all();
    loop.work();
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return busy_ == 0; });
    loop_ = nullptr;
  }

 private:
  void serve() {
    inside_loop = true;
    uint64_t seen = 0;
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return stop_ || round_ != seen; });
      if (stop_) return;
      seen = round_;
      Loop* loop = loop_;
      lock.unlock();
      loop->work();
      lock.lock();
      if (--busy_ == 0) done_.notify_one();
    }
  }

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  Loop* loop_ = nullptr;
  uint64_t round_ = 0;
  int busy_ = 0;
  bool stop_ = false;
};

std::mutex pool_mutex;
std::unique_ptr<Pool> pool;
int wanted_threads = 0;
std::atomic<ParallelRuntime> runtime{nullptr};

int default_threads() { return std::max(1u, std::thread::hardware_concurrency()); }

}  // namespace parallel_file

void set_parallel_runtime(ParallelRuntime runtime) { parallel_file::runtime = runtime; }

void set_threads(int threads) {
  using namespace parallel_file;
  std::lock_guard lock(pool_mutex);
  wanted_threads = threads;
  pool.reset();
}

int threads() {
  using namespace parallel_file;
  std::lock_guard lock(pool_mutex);
  return wanted_threads > 0 ? wanted_threads : default_threads();
}

void run_parallel(int64_t tasks, void (*body)(void*, int64_t), void* context) {
  using namespace parallel_file;
  if (tasks <= 1 || inside_loop) {
    for (int64_t i = 0; i < tasks; ++i) body(context, i);
    return;
  }
  if (ParallelRuntime installed = runtime) return installed(tasks, body, context);
  std::lock_guard lock(pool_mutex);
  int wanted = wanted_threads > 0 ? wanted_threads : default_threads();
  if (!pool || pool->size() != wanted) pool = std::make_unique<Pool>(wanted - 1);
  Loop loop{tasks, body, context, {}, {}, {}};
  inside_loop = true;
  pool->run(loop);
  inside_loop = false;
  if (loop.error) std::rethrow_exception(loop.error);
}

}  // namespace rattan
