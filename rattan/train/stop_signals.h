// SIGINT and SIGTERM as a request to stop, while an object of this class lives.
#pragma once
#include <csignal>

namespace rattan::train {

class StopSignals {
 public:
  StopSignals();
  ~StopSignals();  // puts the former handlers back
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  // The first signal asks; a second one of the same kind has its usual effect and ends the process.
  static bool requested();
  static int signal();  // the one that came, 0 if none

 private:
  struct sigaction interrupt_, terminate_;
};

}  // namespace rattan::train
