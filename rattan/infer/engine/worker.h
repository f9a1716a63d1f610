// The engine's thread and what it shares with the callers.
#pragma once
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "rattan/infer/engine/scheduler.h"

namespace rattan::infer {

class Worker : public Outlet {
 public:
  Worker(models::Model& model, const Tokenizer& tokenizer, EngineConfig config);
  ~Worker() override;  // cancels what is left

  // Any thread. `queued`: counts against max_waiting and is refused while draining.
  uint64_t submit(std::shared_ptr<Live> live, bool queued);
  void cancel(uint64_t id);
  void drain(double seconds);
  EngineStats stats() const;
  // Does something on the engine's thread, between two steps, and waits for it. Exceptions come back.
  void between_steps(const std::function<void(Scheduler&)>& work);

  const EngineConfig& config() const { return config_; }
  models::Model& model() { return model_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  StateStore& store() { return scheduler_.reader().store(); }

 private:
  void tell(Live& live, const EngineEvent& event) override;
  void admitted(Live& live) override;
  void gone(Live& live) override;
  void observe(Live& live, const EngineEvent& event);

  void run(std::promise<void> prepared);
  void publish();
  bool idle() const { return incoming_.empty() && jobs_.empty() && live_.empty(); }

  models::Model& model_;
  const Tokenizer& tokenizer_;
  EngineConfig config_;
  Scheduler scheduler_;

  mutable std::mutex mutex_;
  std::condition_variable wake_, delivered_, quiet_;
  std::deque<std::shared_ptr<Live>> incoming_;
  std::deque<std::function<void()>> jobs_;
  std::map<uint64_t, std::shared_ptr<Live>> live_;  // from submit to the last event
  uint64_t last_id_ = 0, delivering_ = 0;
  int64_t waiting_ = 0;
  bool stop_ = false, draining_ = false, abort_ = false;
  EngineStats stats_;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace rattan::infer
