// HTTP/1.1 for a server whose answers take long: what comes in is whole and checked, what goes out may be a stream.
//
// One thread does all reading and writing and never waits for anybody: a client costs a socket and a few hundred bytes,
// however slow it is. A handler gets a whole request and a Reply, which any thread may use later.
#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rattan::serve {

struct HttpRequest {
  std::string id;                                            // in logs and in the header X-Request-Id
  std::string method, path, query;                           // the target's parts before and behind '?'
  std::vector<std::pair<std::string, std::string>> headers;  // names in lower case
  std::string body;
  std::string peer;  // the client's address
  bool body_given = false;

  // "" where there is none, the first of several.
  std::string_view header(std::string_view name) const;
};

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpResponse {
  int status = 200;
  std::string body;
  std::string type = "application/json";
  HttpHeaders headers;
};

// The answer to one request: either send(), or begin(), write() ..., end(). Any thread, in the order of calls. A Reply
// that is destroyed without an answer closes its connection.
class Reply {
 public:
  virtual ~Reply() = default;
  virtual void send(HttpResponse response) = 0;
  virtual void begin(HttpResponse head) = 0;  // head.body is the first piece
  // False if the reader is gone, or so far behind that it was cut off: nothing more needs to be written.
  virtual bool write(std::string bytes) = 0;
  virtual void end() = 0;
  // `gone` is called once, on the I/O thread, when the client has left or was cut off before the answer was complete;
  // at once if it has. It must not block.
  virtual void on_gone(std::function<void()> gone) = 0;
};

// While one lives, what Replies are told on its thread is passed on to the I/O thread in one go, at its end.
class ReplyBatch {
 public:
  ReplyBatch();
  ~ReplyBatch();
  ReplyBatch(const ReplyBatch&) = delete;
  ReplyBatch& operator=(const ReplyBatch&) = delete;
};

using HttpHandler = std::function<void(HttpRequest, std::shared_ptr<Reply>)>;  // on the I/O thread: must not block
// Sees a request before its body is read; an answer refuses it.
using HttpGate = std::function<std::optional<HttpResponse>(const HttpRequest&)>;
// An answer for what could not be parsed: status and a sentence for the client.
using HttpRefusal = std::function<HttpResponse(int status, const std::string& message)>;

// What happened to one request, told when its answer is complete or its client gone.
struct HttpRecord {
  std::string id, peer, method, path;
  int status = 0;         // 0: none was sent
  bool complete = false;  // the whole answer was handed to the kernel
  uint64_t bytes = 0;     // sent
  double seconds = 0;
};

struct HttpConfig {
  std::string host = "127.0.0.1";
  uint16_t port = 8000;  // 0: any free one
  int64_t max_connections = 4096;
  int64_t max_header = 16 << 10;                  // bytes of a request's head
  int64_t max_body = 8 << 20;                     // bytes
  int64_t max_behind = 1 << 20;                   // bytes a reader of a stream may be behind before it is cut off
  double idle_seconds = 75;                       // between requests
  double header_seconds = 10;                     // from the first byte of a head to its last
  double body_seconds = 60;                       // for the whole body
  double write_seconds = 30;                      // without a byte taken by the reader
  HttpGate gate;                                  // optional
  HttpRefusal refusal;                            // required
  std::function<void(const HttpRecord&)> record;  // optional
};

class HttpServer {
 public:
  // Binds and listens: InputError for an address that cannot be had. Nothing is accepted before run().
  HttpServer(HttpConfig config, HttpHandler handler);
  ~HttpServer();

  uint16_t port() const;
  bool loopback() const;  // the address is reachable from this machine alone
  int64_t connections() const;

  void run();    // the I/O loop; returns after stop(), or after drain() when the last connection is closed
  void drain();  // any thread: no new connections or requests; answers under way are finished
  void stop();   // any thread: everything is closed

  void catch_signals();    // before run(): SIGINT and SIGTERM are requests to stop; a second one has its usual effect
  void wait_for_signal();  // blocks until one came or run() returned

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// "Not Found" of 404.
const char* reason_of(int status);

}  // namespace rattan::serve
