// A client of /v1/completions for measurements: blocking, one connection a request.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace rattan::serve {

struct ServerAddress {
  std::string host, port;
  // Of "http://127.0.0.1:8000". InputError for anything else (no path, no https).
  static ServerAddress of_url(const std::string& url);
};

struct ClientAnswer {
  int status = 0;       // 0: no connection, or it broke before the status
  std::string body;     // of an answer that is no stream
  bool whole = false;   // the stream came to its end
  std::string problem;  // "" or what went wrong, in a few words
};

// Sends `body` (GET if it is empty) and hands each event of a stream to `event` as it arrives; false from there leaves.
ClientAnswer ask(const ServerAddress& address, const std::string& path, const std::string& key, const std::string& body,
                 double timeout_seconds, const std::function<bool(const std::string&)>& event = {});

}  // namespace rattan::serve
