// A refusal in OpenAI's shape: {"error": {"message", "type", "param", "code"}}. Its message is for the client: it names
// the parameter and what it takes, never a path or the inside of the server.
#pragma once
#include <fmt/core.h>

#include <exception>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>

namespace rattan::serve {

struct ApiError : std::exception {
  int status = 400;
  std::string message, param, code;  // "" where there is none
  int retry_after = 0;               // seconds; 0: no such header

  ApiError(int status, std::string message, std::string param = "", std::string code = "", int retry_after = 0)
      : status(status),
        message(std::move(message)),
        param(std::move(param)),
        code(std::move(code)),
        retry_after(retry_after) {}
  const char* what() const noexcept override { return message.c_str(); }
  const char* type() const;  // of the status: "invalid_request_error", "authentication_error", ...
  nlohmann::json json() const;
};

// 400 that names a parameter.
template <class... Args>
[[noreturn]] void refuse(const std::string& param, fmt::format_string<Args...> format, Args&&... args) {
  throw ApiError(400, fmt::format(format, std::forward<Args>(args)...), param);
}

}  // namespace rattan::serve
