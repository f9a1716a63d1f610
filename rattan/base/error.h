// Errors of the whole project. Each says what was expected, what came and what to do.
// The command line turns them into exit codes: Error 1, InputError 2, Interrupted 130.
#pragma once
#include <fmt/core.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace rattan {

// Something failed while working: a full disk, a vanished folder, a loss that is not finite.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Wrong use or wrong input; `what()` starts with the place where it has one ("file.toml:12: ...").
struct InputError : Error {
  using Error::Error;
};

// SIGINT or SIGTERM arrived and the state was saved.
struct Interrupted : Error {
  using Error::Error;
};

template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

template <class... Args>
[[noreturn]] void fail_input(fmt::format_string<Args...> format, Args&&... args) {
  throw InputError(fmt::format(format, std::forward<Args>(args)...));
}

// Checks a caller's input: require(n > 0, "batch must be positive, got {}", n).
template <class... Args>
void require(bool holds, fmt::format_string<Args...> format, Args&&... args) {
  if (!holds) throw InputError(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace rattan
