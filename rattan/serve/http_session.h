// One connection of an HttpServer, and the answer to its current request. For http_*.cpp alone: it includes Boost.
#pragma once
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <deque>
#include <list>
#include <memory>
#include <string>

#include "rattan/serve/http.h"

namespace rattan::serve {

namespace asio = boost::asio;
namespace beast = boost::beast;
using boost::system::error_code;

class HttpSession;

// What sessions share. Everything here belongs to the I/O thread, except where it is atomic.
struct HttpShared {
  asio::io_context& io;
  const HttpConfig& config;
  const HttpHandler& handler;
  std::list<std::weak_ptr<HttpSession>> idle;   // those between requests, the longest idle first
  std::list<std::shared_ptr<HttpSession>> all;  // an open session lives here, whether it waits for anything or not
  std::atomic<int64_t> open{0};
  bool draining = false;
  std::string id_prefix;
  uint64_t next_id = 0;
};

// The part of a Reply that any thread may touch, and the session that it belongs to until it is over.
class HttpExchange : public Reply, public std::enable_shared_from_this<HttpExchange> {
 public:
  HttpExchange(asio::io_context& io, std::weak_ptr<HttpSession> session, int64_t max_behind);
  ~HttpExchange() override;
  void send(HttpResponse response) override;
  void begin(HttpResponse head) override;
  bool write(std::string bytes) override;
  void end() override;
  void on_gone(std::function<void()> gone) override;

  // On the I/O thread:
  void sent(std::size_t bytes) { behind_ -= static_cast<int64_t>(bytes); }
  void finish() { finished_ = true, gone_handlers_.clear(); }
  void leave();  // the client is gone: tells those who asked

 private:
  asio::io_context& io_;
  std::weak_ptr<HttpSession> session_;
  const int64_t max_behind_;
  std::atomic<int64_t> behind_{0};
  std::atomic<bool> gone_{false};
  std::atomic<bool> finished_{false};
  std::vector<std::function<void()>> gone_handlers_;
};

class HttpSession : public std::enable_shared_from_this<HttpSession> {
 public:
  HttpSession(asio::ip::tcp::socket socket, HttpShared& shared);
  ~HttpSession();
  void start();
  void close();  // at once
  void drain();  // closes if no request is under way, else behind the answer

  // The answer, on the I/O thread.
  void send(HttpExchange& from, const HttpResponse& response);
  void begin(HttpExchange& from, const HttpResponse& head);
  void write(HttpExchange& from, std::string bytes);
  void end(HttpExchange& from);
  void cut_off(HttpExchange& from);
  void abandoned();  // the reply was destroyed without an answer

 private:
  using Parser = beast::http::request_parser<beast::http::string_body>;

  void wait_for_request();
  void read_head();
  void on_head(error_code error);
  void continue_body();
  void read_body();
  void on_body(error_code error);
  void dispatch();
  void watch();  // for a client that leaves while its answer is made
  void on_watched(error_code error);

  void refuse(int status, const std::string& message);
  void refuse(const HttpResponse& response);
  std::string head_of(const HttpResponse& response, bool stream);
  void push(std::string bytes, std::size_t counted = 0);
  void flush();
  void write_some();
  void on_flushed();
  void answered();  // everything was written
  void linger();
  void read_away();
  void abort();
  void record(bool complete);

  void time_out();
  void arm(double seconds, void (HttpSession::*expired)());
  void disarm();
  void become_busy();
  bool is_current(const HttpExchange& from) const;

  asio::ip::tcp::socket socket_;
  HttpShared& shared_;
  asio::steady_timer timer_;
  beast::flat_buffer buffer_;
  std::optional<Parser> parser_;
  HttpRequest request_;
  HttpRecord record_;
  std::chrono::steady_clock::time_point began_;
  std::weak_ptr<HttpExchange> exchange_;
  const HttpExchange* exchange_id_ = nullptr;  // identity of the current one, set while a request is under way
  struct Piece {
    std::string bytes;
    std::size_t counted = 0;  // of these, the bytes that HttpExchange::write counts until they are sent
  };
  std::deque<Piece> out_;
  std::size_t writing_counted_ = 0;
  std::string writing_;
  std::string_view write_left_;
  std::list<std::weak_ptr<HttpSession>>::iterator idle_at_;
  std::list<std::shared_ptr<HttpSession>>::iterator all_at_;
  std::string peer_;
  std::size_t lingered_ = 0;
  bool idle_ = false, busy_writing_ = false, last_ = false, chunked_ = false, head_only_ = false, old_ = false;
  bool started_ = false, ended_ = false, watching_ = false, input_closed_ = false, closed_ = false;
  bool lingering_ = false, recorded_ = true, unread_body_ = false, timed_out_ = false;
};

}  // namespace rattan::serve
