#include "rattan/train/progress.h"

#include <fmt/core.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

namespace rattan::train {
namespace progress_file {

constexpr double kWindow = 10;          // seconds
constexpr double kTerminalEvery = 0.1;  // seconds between redraws

double seconds(Progress::Clock::duration d) { return std::chrono::duration<double>(d).count(); }

int columns(std::FILE* file) {
  winsize size{};
  if (ioctl(fileno(file), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

std::string bar(double share, int width) {
  int filled = static_cast<int>(std::floor(share * width));
  std::string out = "[";
  for (int i = 0; i < width; ++i) out += i < filled ? '=' : i == filled ? '>' : ' ';
  return out + "] ";
}

}  // namespace progress_file

std::string human_duration(double seconds) {
  if (seconds < 9.95) return fmt::format("{:.1f} s", std::max(0.0, seconds));
  auto s = static_cast<int64_t>(std::llround(std::clamp(seconds, 0.0, 1e15)));
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{}:{:02}", s / 60, s % 60);
  if (s < 2 * 86400) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{} d {} h", s / 86400, s / 3600 % 24);
}

std::string human_count(double count) {
  const char* unit = "";
  for (const char* next : {"k", "M", "B", "T"}) {
    if (count < 999.5) break;
    count /= 1000;
    unit = next;
  }
  if (*unit == 0) return fmt::format("{:.0f}", count);
  return fmt::format("{:.{}f}{}", count, count < 9.995 ? 2 : count < 99.95 ? 1 : 0, unit);
}

std::string progress_line(const ProgressView& view, int width) {
  std::string text = fmt::format("step {}/{}  loss {:.4f}  {} tokens/s", view.step, view.steps, view.loss,
                                 human_count(view.tokens_per_second));
  if (view.eta_seconds && view.step < view.steps) text += "  ETA " + human_duration(*view.eta_seconds);
  if (width <= 0) return text;
  int room = width - 1 - static_cast<int>(text.size()) - 3;
  double share = view.steps > 0 ? static_cast<double>(view.step) / static_cast<double>(view.steps) : 0;
  if (room >= 8) text = progress_file::bar(std::clamp(share, 0.0, 1.0), std::min(room, 30)) + text;
  return text.substr(0, static_cast<std::size_t>(std::max(1, width - 1)));
}

Progress::Output Progress::standard_error() {
  Output output;
  output.terminal = isatty(STDERR_FILENO) != 0;
  return output;
}

Progress::Progress(int64_t steps, int64_t done, Output output)
    : steps_(steps), output_(output), window_begin_(Clock::now()), window_step_(done) {
  shown_ = window_begin_;
  view_.steps = steps;
  view_.step = done;
}

Progress::~Progress() { finish(); }

void Progress::update(int64_t step, double loss, int64_t tokens, Clock::time_point now) {
  using namespace progress_file;
  view_.step = step;
  view_.loss = loss;
  window_tokens_ += tokens;
  double passed = seconds(now - window_begin_);
  if (passed > 0 && step > window_step_) {
    seconds_per_step_ = passed / static_cast<double>(step - window_step_);
    view_.tokens_per_second = static_cast<double>(window_tokens_) / passed;
    view_.eta_seconds = seconds_per_step_ * static_cast<double>(steps_ - step);
  }
  if (passed > kWindow) window_begin_ = now, window_step_ = step, window_tokens_ = 0;
  pending_ = true;
  if (seconds(now - shown_) >= (output_.terminal ? kTerminalEvery : output_.every)) {
    shown_ = now;
    show(false);
  }
}

void Progress::show(bool last) {
  if (output_.quiet) return;
  pending_ = false;
  if (!output_.terminal) {
    fmt::print(output_.file, "{}\n", progress_line(view_, 0));
    return;
  }
  std::string line = progress_line(view_, progress_file::columns(output_.file));
  std::size_t length = line.size();
  if (length < drawn_) line.append(drawn_ - length, ' ');
  drawn_ = last ? 0 : length;
  fmt::print(output_.file, "\r{}{}", line, last ? "\n" : "");
  std::fflush(output_.file);
}

void Progress::note(std::string_view text) {
  if (output_.quiet) return;
  if (output_.terminal && drawn_ > 0) fmt::print(output_.file, "\r{:{}}\r", "", drawn_);
  fmt::print(output_.file, "{}\n", text);
  if (output_.terminal && drawn_ > 0) show(false);
  std::fflush(output_.file);
}

void Progress::finish() {
  if (finished_) return;
  finished_ = true;
  if (pending_ || drawn_ > 0) show(true);
}

}  // namespace rattan::train
