// The progress of a long run on stderr: one line rewritten in place on a terminal, else a line every few seconds.
#pragma once
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>

namespace rattan::train {

struct ProgressView {
  int64_t step = 0, steps = 0;
  double loss = 0;
  double tokens_per_second = 0;
  std::optional<double> eta_seconds;
};

// "step 120/400  loss 2.3471  11.9k tokens/s  ETA 1:42", with a bar in front where `width` (columns) leaves room;
// width 0: no bar and no limit.
std::string progress_line(const ProgressView& view, int width);

std::string human_duration(double seconds);  // "7.6 s", "42 s", "1:42", "2:03:09", "3 d 4 h"
std::string human_count(double count);       // "950", "11.9k", "3.20M"

class Progress {
 public:
  using Clock = std::chrono::steady_clock;
  struct Output {
    std::FILE* file = stderr;
    bool terminal = false;  // rewrite in place
    bool quiet = false;
    double every = 5;  // seconds between lines where it is no terminal
  };
  static Output standard_error();

  // `done` steps were made by an earlier run; the rate counts only what follows.
  Progress(int64_t steps, int64_t done, Output output);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Says where the run is; tokens/s and the time left follow from the steps and tokens of the last ten seconds or so.
  void update(int64_t step, double loss, int64_t tokens, Clock::time_point now = Clock::now());
  void note(std::string_view text);  // a line of its own, above the bar
  void finish();                     // shows the last state and ends the line; the destructor does it too

 private:
  void show(bool last);
  int64_t steps_;
  Output output_;
  ProgressView view_;
  Clock::time_point shown_{}, window_begin_;
  int64_t window_step_, window_tokens_ = 0;
  double seconds_per_step_ = 0;
  std::size_t drawn_ = 0;
  bool pending_ = false, finished_ = false;
};

}  // namespace rattan::train
