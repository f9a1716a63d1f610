// A few threads for work that takes longer than an I/O thread should: parsing, tokenizing, building answers.
#pragma once
#include <chrono>
#include <compare>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

namespace rattan::serve {

class TaskPool {
 public:
  using Task = std::function<void()>;  // must not throw
  // `gathers`: what gather() is given waits for flush().
  explicit TaskPool(int threads, bool gathers = false);
  ~TaskPool() { stop(); }
  void stop();  // waits for what runs; what waits is dropped, and what comes later too

  // A task for later.
  struct Timer {
    std::chrono::steady_clock::time_point at{};
    uint64_t number = 0;  // 0: none
    auto operator<=>(const Timer&) const = default;
  };

  void post(Task task);
  Timer after(double seconds, Task task);
  void cancel(const Timer& timer);  // what the task holds is released; nothing if it has begun
  // What is gathered runs as one task, in order, and wakes one thread and the I/O thread once: a step of the engine
  // brings news for many answers. Never do two threads run what was gathered, so that what one of them told a Reply is
  // passed on before what the next one tells it. Where the pool does not gather, the same as post().
  void gather(Task task);
  void flush();
  std::size_t waiting() const;

 private:
  void work();
  void run_gathered();

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  const bool gathers_;
  std::deque<Task> tasks_;
  std::vector<Task> gathered_;
  std::map<Timer, Task> later_;
  uint64_t timers_ = 0;
  std::vector<std::thread> threads_;
  bool ended_ = false, flushing_ = false;
};

}  // namespace rattan::serve
