#include "rattan/serve/task_pool.h"

#include "rattan/serve/http.h"

namespace rattan::serve {

TaskPool::TaskPool(int threads, bool gathers) : gathers_(gathers) {
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
}

void TaskPool::stop() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
  std::deque<Task> tasks;
  std::vector<Task> gathered;
  std::map<Timer, Task> later;
  {
    const std::lock_guard lock(mutex_);
    tasks.swap(tasks_), gathered.swap(gathered_), later.swap(later_);
  }
}

void TaskPool::post(Task task) {
  {
    const std::lock_guard lock(mutex_);
    if (ended_) return;
    tasks_.push_back(std::move(task));
  }
  changed_.notify_one();
}

TaskPool::Timer TaskPool::after(double seconds, Task task) {
  Timer timer{std::chrono::steady_clock::now() + std::chrono::microseconds(static_cast<int64_t>(seconds * 1e6)), 0};
  {
    const std::lock_guard lock(mutex_);
    if (ended_) return timer;
    timer.number = ++timers_;
    later_.emplace(timer, std::move(task));
  }
  changed_.notify_one();
  return timer;
}

void TaskPool::cancel(const Timer& timer) {
  std::map<Timer, Task>::node_type task;  // released without the lock
  const std::lock_guard lock(mutex_);
  task = later_.extract(timer);
}

void TaskPool::gather(Task task) {
  if (!gathers_) return post(std::move(task));
  const std::lock_guard lock(mutex_);
  if (!ended_) gathered_.push_back(std::move(task));
}

void TaskPool::flush() {
  {
    const std::lock_guard lock(mutex_);
    if (ended_ || flushing_ || gathered_.empty()) return;
    flushing_ = true;
    tasks_.emplace_back([this] { run_gathered(); });
  }
  changed_.notify_one();
}

void TaskPool::run_gathered() {
  for (;;) {
    std::vector<Task> gathered;
    {
      const std::lock_guard lock(mutex_);
      if (gathered_.empty()) {
        flushing_ = false;
        return;
      }
      gathered.swap(gathered_);
    }
    const ReplyBatch batch;
    for (const Task& task : gathered) task();
  }
}

std::size_t TaskPool::waiting() const {
  const std::lock_guard lock(mutex_);
  return tasks_.size();
}

void TaskPool::work() {
  std::unique_lock lock(mutex_);
  while (!ended_) {
    Task task;
    if (!later_.empty() && later_.begin()->first.at <= std::chrono::steady_clock::now()) {
      task = std::move(later_.begin()->second);
      later_.erase(later_.begin());
    } else if (!tasks_.empty()) {
      task = std::move(tasks_.front());
      tasks_.pop_front();
    } else if (!later_.empty()) {
      const auto at = later_.begin()->first.at;
      changed_.wait_until(lock, at);
      continue;
    } else {
      changed_.wait(lock);
      continue;
    }
    lock.unlock();
    task();
    task = nullptr;  // what it holds is released without the lock
    lock.lock();
  }
}

}  // namespace rattan::serve
