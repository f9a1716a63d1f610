#include "rattan/train/stop_signals.h"

#include <atomic>

namespace rattan::train {
namespace stop_signals_file {

std::atomic<int> received{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may only touch lock-free atomics");

extern "C" void rattan_train_on_signal(int signal) { received = signal; }

}  // namespace stop_signals_file

StopSignals::StopSignals() {
  stop_signals_file::received = 0;
  struct sigaction action = {};
  action.sa_handler = stop_signals_file::rattan_train_on_signal;
  action.sa_flags = static_cast<int>(SA_RESETHAND) | SA_RESTART;
  sigaction(SIGINT, &action, &interrupt_);
  sigaction(SIGTERM, &action, &terminate_);
}

StopSignals::~StopSignals() {
  sigaction(SIGINT, &interrupt_, nullptr);
  sigaction(SIGTERM, &terminate_, nullptr);
}

bool StopSignals::requested() { return stop_signals_file::received != 0; }
int StopSignals::signal() { return stop_signals_file::received; }

}  // namespace rattan::train
