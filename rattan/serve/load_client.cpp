#include "rattan/serve/load_client.h"

#include <fmt/core.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>

#include "rattan/base/error.h"

namespace rattan::serve {
namespace load_client_file {

class Socket {
 public:
  Socket(const ServerAddress& address, double timeout) {
    addrinfo hints{}, *found = nullptr;
    hints.ai_socktype = SOCK_STREAM;
    if (getaddrinfo(address.host.c_str(), address.port.c_str(), &hints, &found) != 0) return;
    for (const addrinfo* a = found; a != nullptr && fd_ < 0; a = a->ai_next) {
      fd_ = socket(a->ai_family, a->ai_socktype, a->ai_protocol);
      if (fd_ < 0) continue;
      timeval limit{};
      limit.tv_sec = static_cast<time_t>(timeout);
      limit.tv_usec = static_cast<suseconds_t>((timeout - std::floor(timeout)) * 1e6);
      setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
      setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
      const int on = 1;
      setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      if (connect(fd_, a->ai_addr, a->ai_addrlen) == 0) continue;
      ::close(fd_);
      fd_ = -1;
    }
    freeaddrinfo(found);
  }
  ~Socket() {
    if (fd_ >= 0) ::close(fd_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  bool open() const { return fd_ >= 0; }
  bool send_all(std::string_view text) const {
    while (!text.empty()) {
      const ssize_t n = send(fd_, text.data(), text.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      text.remove_prefix(static_cast<std::size_t>(n));
    }
    return true;
  }
  // 0 at the end, -1 for an error or when nothing came in time.
  ssize_t receive(std::string& into) const {
    char bytes[16384];
    const ssize_t n = recv(fd_, bytes, sizeof bytes, 0);
    if (n > 0) into.append(bytes, static_cast<std::size_t>(n));
    return n;
  }

 private:
  int fd_ = -1;
};

}  // namespace load_client_file

ServerAddress ServerAddress::of_url(const std::string& url) {
  std::string rest = url;
  const std::string scheme = "http://";
  require(rest.starts_with(scheme), "expected a URL such as http://127.0.0.1:8000, got '{}'", url);
  rest.erase(0, scheme.size());
  while (rest.ends_with('/')) rest.pop_back();
  const std::size_t colon = rest.rfind(':');
  const bool bare = colon == std::string::npos || rest.ends_with(']');
  ServerAddress address{bare ? rest : rest.substr(0, colon), bare ? "80" : rest.substr(colon + 1)};
  if (address.host.starts_with('[') && address.host.ends_with(']'))
    address.host = address.host.substr(1, address.host.size() - 2);
  require(!address.host.empty() && !address.port.empty() && rest.find('/') == std::string::npos &&
              address.port.find_first_not_of("0123456789") == std::string::npos,
          "expected a URL such as http://127.0.0.1:8000, got '{}'", url);
  return address;
}

// HTTP/1.0: its answers are not cut into chunks and end with the connection.
ClientAnswer ask(const ServerAddress& address, const std::string& path, const std::string& key, const std::string& body,
                 double timeout_seconds, const std::function<bool(const std::string&)>& event) {
  ClientAnswer answer;
  const load_client_file::Socket socket(address, timeout_seconds);
  auto fail = [&](const char* problem) {
    answer.problem = problem;
    return answer;
  };
  if (!socket.open()) return fail("cannot connect");
  std::string request =
      fmt::format("{} {} HTTP/1.0\r\nHost: {}\r\n", body.empty() ? "GET" : "POST", path, address.host);
  if (!key.empty()) request += fmt::format("Authorization: Bearer {}\r\n", key);
  if (!body.empty()) request += fmt::format("Content-Type: application/json\r\nContent-Length: {}\r\n", body.size());
  if (!socket.send_all(request + "\r\n" + body)) return fail("sending failed");

  std::string held;
  std::size_t end_of_head = std::string::npos;
  while (end_of_head == std::string::npos) {
    if (socket.receive(held) <= 0) return fail("no answer");
    end_of_head = held.find("\r\n\r\n");
  }
  const std::string head = held.substr(0, end_of_head);
  held.erase(0, end_of_head + 4);
  answer.status = head.size() > 12 ? std::atoi(head.c_str() + 9) : 0;
  const bool stream = event && head.find("text/event-stream") != std::string::npos;
  for (;;) {
    for (std::size_t cut; stream && (cut = held.find("\n\n")) != std::string::npos; held.erase(0, cut + 2)) {
      const std::string data = held.substr(0, cut);
      if (data == "data: [DONE]") answer.whole = true;
      if (!answer.whole && data.starts_with("data: ") && !event(data.substr(6))) return answer;
    }
    const ssize_t n = socket.receive(held);
    if (n < 0) return fail("the answer broke off");
    if (n == 0) break;
  }
  if (!stream) answer.body = std::move(held);
  if (stream && !answer.whole) return fail("the stream has no end");
  answer.whole = true;
  return answer;
}

}  // namespace rattan::serve
