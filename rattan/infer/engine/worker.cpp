#include "rattan/infer/engine/worker.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/DeviceGuard.h>

#include <algorithm>
#include <exception>
#include <future>
#include <utility>

#include "rattan/base/error.h"

namespace rattan::infer {
namespace worker_file {

// 1, 2, 5, 10 ... of a millisecond to a thousand seconds.
Histogram seconds() {
  Histogram h;
  for (double decade = 1e-4; decade < 1e3; decade *= 10)
    for (double step : {1.0, 2.0, 5.0}) h.bounds.push_back(decade * step);
  h.counts.assign(h.bounds.size() + 1, 0);
  return h;
}

void add(Histogram& h, Clock::duration elapsed) {
  const double value = std::chrono::duration<double>(elapsed).count();
  ++h.counts[static_cast<std::size_t>(std::lower_bound(h.bounds.begin(), h.bounds.end(), value) - h.bounds.begin())];
  h.sum += value;
}

}  // namespace worker_file

Worker::Worker(models::Model& model, const Tokenizer& tokenizer, EngineConfig config)
    : model_(model), tokenizer_(tokenizer), config_(std::move(config)), scheduler_(model, tokenizer, config_, *this) {
  stats_.first_token_seconds = stats_.token_seconds = stats_.queue_seconds = worker_file::seconds();
  stats_.slots = scheduler_.rows();
  publish();
  std::promise<void> promise;
  std::future<void> prepared = promise.get_future();
  thread_ = std::thread([this, promise = std::move(promise)]() mutable { run(std::move(promise)); });
  try {
    prepared.get();
  } catch (...) {
    thread_.join();
    throw;
  }
}

Worker::~Worker() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    for (auto& [id, live] : live_) live->cancelled = true;
  }
  wake_.notify_all();
  thread_.join();
}

uint64_t Worker::submit(std::shared_ptr<Live> live, bool queued) {
  std::lock_guard lock(mutex_);
  if (queued && draining_) throw Busy("the engine is stopping and takes no new requests");
  if (queued && waiting_ >= config_.max_waiting)
    throw Busy(fmt::format("{} requests are waiting, which is all that may; try again later", waiting_));
  live->id = ++last_id_;
  live->submitted = Clock::now();
  live->told.assign(static_cast<std::size_t>(live->request.choices), {});
  live_[live->id] = live;
  ++waiting_, ++stats_.requests;
  incoming_.push_back(std::move(live));
  wake_.notify_one();
  return last_id_;
}

void Worker::cancel(uint64_t id) {
  std::unique_lock lock(mutex_);
  const auto at = live_.find(id);
  if (at == live_.end()) return;
  if (!at->second->cancelled.exchange(true)) ++stats_.cancelled;
  wake_.notify_one();
  if (std::this_thread::get_id() == thread_.get_id()) return;
  delivered_.wait(lock, [&] { return delivering_ != id; });
}

void Worker::drain(double seconds) {
  std::unique_lock lock(mutex_);
  draining_ = true;
  const auto empty = [this] { return live_.empty(); };
  if (quiet_.wait_for(lock, std::chrono::duration<double>(seconds), empty)) return;
  abort_ = true;
  wake_.notify_one();
  quiet_.wait(lock, empty);
}

void Worker::between_steps(const std::function<void(Scheduler&)>& work) {
  std::packaged_task<void()> task([&] { work(scheduler_); });
  std::future<void> done = task.get_future();
  {
    std::lock_guard lock(mutex_);
    jobs_.emplace_back([&task] { task(); });
  }
  wake_.notify_one();
  done.get();
}

void Worker::tell(Live& live, const EngineEvent& event) {
  {
    std::lock_guard lock(mutex_);
    if (live.cancelled) return;
    observe(live, event);
    if (!live.listener) return;
    delivering_ = live.id;
  }
  bool threw = false;
  try {
    live.listener(event);
  } catch (...) {  // a listener that fails loses its request, nothing else
    threw = true;
  }
  {
    std::lock_guard lock(mutex_);
    delivering_ = 0;
    if (threw && !live.cancelled.exchange(true)) ++stats_.failed;
  }
  delivered_.notify_all();
}

void Worker::observe(Live& live, const EngineEvent& event) {
  using worker_file::add;
  if (event.kind == EngineEvent::Kind::failed) ++stats_.failed;
  if (event.kind != EngineEvent::Kind::token) return;
  const auto now = Clock::now();
  Clock::time_point& last = live.told[static_cast<std::size_t>(event.choice)];
  const bool first = std::all_of(live.told.begin(), live.told.end(), [](auto t) { return t == Clock::time_point{}; });
  if (first) add(stats_.first_token_seconds, now - live.submitted);
  if (last != Clock::time_point{}) add(stats_.token_seconds, now - last);
  last = now;
}

void Worker::admitted(Live& live) {
  std::lock_guard lock(mutex_);
  --waiting_;
  worker_file::add(stats_.queue_seconds, Clock::now() - live.submitted);
}

void Worker::gone(Live& live) {
  std::lock_guard lock(mutex_);
  if (live_.erase(live.id) > 0 && !live.admitted) --waiting_;
}

EngineStats Worker::stats() const {
  std::lock_guard lock(mutex_);
  EngineStats out = stats_;
  out.waiting = waiting_;
  return out;
}

void Worker::publish() {
  std::lock_guard lock(mutex_);
  const Counts& counts = scheduler_.counts();
  const PrefixCache& cache = scheduler_.cache();
  stats_.running = scheduler_.running();
  stats_.preempted = counts.preempted;
  stats_.prompt_tokens = counts.prompt_tokens;
  stats_.reused_tokens = counts.reused_tokens;
  stats_.generated_tokens = counts.generated_tokens;
  stats_.steps = counts.steps;
  stats_.guessed = counts.guessed;
  stats_.guesses_right = counts.guesses_right;
  stats_.cache_hits = cache.hits();
  stats_.cache_evictions = cache.evictions();
  stats_.cache_misses = cache.misses();
  stats_.state_bytes = scheduler_.memory().row_bytes();
  stats_.cache_bytes = scheduler_.memory().kept_bytes();
  stats_.memory = scheduler_.memory().budget();
}

void Worker::run(std::promise<void> prepared) {
  at::init_num_threads();  // as many as the process was told to use, which OpenMP would forget on a new thread
  at::NoGradGuard no_grad;
  const c10::DeviceGuard device(device_of(model_));
  try {
    scheduler_.record();
  } catch (...) {
    return prepared.set_exception(std::current_exception());
  }
  prepared.set_value();
  for (;;) {
    std::deque<std::shared_ptr<Live>> incoming;
    std::deque<std::function<void()>> jobs;
    bool abort = false;
    {
      std::unique_lock lock(mutex_);
      if (live_.empty()) quiet_.notify_all();
      wake_.wait(lock, [this] { return stop_ || !idle(); });
      if (stop_) return;
      incoming.swap(incoming_);
      jobs.swap(jobs_);
      abort = abort_;
    }
    for (const auto& live : incoming) scheduler_.add(live);
    for (auto& job : jobs) job();
    try {
      if (abort) scheduler_.fail_all("the engine is stopping");
      scheduler_.step();
    } catch (const std::exception& error) {
      scheduler_.fail_all(error.what());
    }
    publish();
    if (config_.after_step) config_.after_step();
  }
}

}  // namespace rattan::infer
