// Reading requests. What a parser could take in two ways is refused and its connection closed, since a proxy in front
// may have read it the other way.
#include "rattan/serve/http_session.h"

#include <fmt/core.h>

#include <algorithm>
#include <boost/asio/write.hpp>
#include <boost/beast/http/read.hpp>

namespace rattan::serve {
namespace http_session_file {

namespace http = beast::http;

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return c < 128 ? std::tolower(c) : c; });
  return out;
}

bool of_parser(error_code error) { return error.category() == make_error_code(http::error::bad_field).category(); }

std::string_view view(boost::beast::string_view text) { return {text.data(), text.size()}; }

// Why a head that parsed is refused all the same; "" if it is not.
std::string objection(const http::request_parser<http::string_body>::value_type& message) {
  int hosts = 0, lengths = 0, codings = 0;
  for (const auto& field : message) {
    const std::string_view value = view(field.value());
    if (value.find_first_of(std::string_view("\0\r\n", 3)) != std::string_view::npos)
      return "a header holds a control character";
    switch (field.name()) {
      case http::field::host:
        ++hosts;
        break;
      case http::field::content_length:
        ++lengths;
        if (value.empty() || value.size() > 18 || value.find_first_not_of("0123456789") != std::string_view::npos)
          return "Content-Length must be one number";
        break;
      case http::field::transfer_encoding:
        ++codings;
        if (lower(value) != "chunked") return "the only Transfer-Encoding that is understood is chunked";
        break;
      default:
        break;
    }
  }
  if (lengths > 1) return "there is more than one Content-Length";
  if (codings > 1) return "there is more than one Transfer-Encoding";
  if (lengths > 0 && codings > 0) return "there are both Content-Length and Transfer-Encoding";
  if (codings > 0 && message.version() < 11) return "HTTP/1.0 knows no Transfer-Encoding";
  if (hosts > 1 || (hosts == 0 && message.version() >= 11)) return "there must be one header Host";
  const std::string_view target = view(message.target());
  if (target.empty() || target.front() != '/') return "the target must be a path";
  return "";
}

}  // namespace http_session_file

HttpSession::HttpSession(asio::ip::tcp::socket socket, HttpShared& shared)
    : socket_(std::move(socket)),
      shared_(shared),
      timer_(shared.io),
      buffer_(static_cast<std::size_t>(shared.config.max_header) + (256 << 10)) {
  error_code ignored;
  socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
  // A reader that stops is noticed by what it leaves in here, so the kernel may not hide much.
  socket_.set_option(asio::socket_base::send_buffer_size(128 << 10), ignored);
  const auto remote = socket_.remote_endpoint(ignored);
  peer_ = ignored ? "" : remote.address().to_string();
  ++shared_.open;
}

HttpSession::~HttpSession() { --shared_.open; }

void HttpSession::start() {
  shared_.all.push_back(shared_from_this());
  all_at_ = std::prev(shared_.all.end());
  wait_for_request();
}

void HttpSession::arm(double seconds, void (HttpSession::*expired)()) {
  timer_.expires_after(std::chrono::microseconds(static_cast<int64_t>(seconds * 1e6)));
  timer_.async_wait([self = shared_from_this(), expired](error_code error) {
    // A timer that was set anew while this call was already queued has not expired for the new purpose.
    if (error || self->closed_ || self->timer_.expiry() > std::chrono::steady_clock::now()) return;
    ((*self).*expired)();
  });
}

void HttpSession::disarm() { timer_.expires_at(std::chrono::steady_clock::time_point::max()); }

// What is being read ends with an error, which on_head or on_body turns into an answer.
void HttpSession::time_out() {
  timed_out_ = true;
  error_code ignored;
  socket_.cancel(ignored);
}

bool HttpSession::is_current(const HttpExchange& from) const { return exchange_id_ == &from && !closed_; }

void HttpSession::become_busy() {
  if (!idle_) return;
  shared_.idle.erase(idle_at_);
  idle_ = false;
}

void HttpSession::wait_for_request() {
  if (closed_) return;
  if (buffer_.size() > 0) return read_head();  // the next one of a pipeline
  if (shared_.draining || input_closed_) return close();
  buffer_ = beast::flat_buffer(buffer_.max_size());  // an idle connection holds no memory
  shared_.idle.push_back(weak_from_this());
  idle_at_ = std::prev(shared_.idle.end());
  idle_ = true;
  arm(shared_.config.idle_seconds, &HttpSession::close);
  socket_.async_wait(asio::ip::tcp::socket::wait_read, [self = shared_from_this()](error_code error) {
    if (self->closed_) return;
    self->become_busy();
    error ? self->close() : self->read_head();
  });
}

void HttpSession::read_head() {
  parser_.emplace();
  parser_->header_limit(static_cast<uint32_t>(shared_.config.max_header));
  parser_->body_limit(static_cast<uint64_t>(shared_.config.max_body));
  request_ = {};
  request_.peer = peer_;
  request_.id = shared_.id_prefix + fmt::format("{:06x}", shared_.next_id++);
  record_ = {request_.id, peer_, "", "", 0, false, 0, 0};
  began_ = std::chrono::steady_clock::now();
  recorded_ = started_ = ended_ = chunked_ = head_only_ = old_ = unread_body_ = timed_out_ = false;
  arm(shared_.config.header_seconds, &HttpSession::time_out);
  beast::http::async_read_header(socket_, buffer_, *parser_,
                                 [self = shared_from_this()](error_code error, std::size_t) { self->on_head(error); });
}

void HttpSession::on_head(error_code error) {
  if (closed_) return;
  namespace http = beast::http;
  unread_body_ = true;
  if (timed_out_) return refuse(408, "the request's head took too long");
  if (error == http::error::end_of_stream || (error && !http_session_file::of_parser(error))) {
    recorded_ = true;  // nobody asked for anything
    return close();
  }
  if (error == http::error::body_limit)
    return refuse(413, fmt::format("the body is larger than {} bytes", shared_.config.max_body));
  if (error == http::error::header_limit || error == http::error::buffer_overflow)
    return refuse(431, fmt::format("the request's head is larger than {} bytes", shared_.config.max_header));
  if (error == http::error::bad_version) return refuse(505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
  if (error == http::error::partial_message) return close();
  if (error) return refuse(400, "this is not a well-formed HTTP request");

  const auto& message = parser_->get();
  old_ = message.version() < 11;
  const std::string target(message.target());
  const std::size_t question = target.find('?');
  request_.method = std::string(message.method_string());
  request_.path = target.substr(0, question);
  request_.query = question == std::string::npos ? "" : target.substr(question + 1);
  record_.method = request_.method, record_.path = request_.path;
  if (message.version() != 10 && message.version() != 11)
    return refuse(505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
  if (const std::string why = http_session_file::objection(message); !why.empty()) return refuse(400, why);
  for (const auto& field : message)
    request_.headers.emplace_back(http_session_file::lower(http_session_file::view(field.name_string())),
                                  std::string(field.value()));
  head_only_ = request_.method == "HEAD";
  last_ = !message.keep_alive();
  request_.body_given = parser_->chunked() || parser_->content_length().value_or(0) > 0;
  if (shared_.config.gate)
    if (auto response = shared_.config.gate(request_)) return refuse(*response);
  const std::string expect = http_session_file::lower(request_.header("expect"));
  if (!expect.empty() && expect != "100-continue")
    return refuse(417, "the only expectation that is met is 100-continue");
  if (parser_->is_done()) return dispatch();
  arm(shared_.config.body_seconds, &HttpSession::time_out);
  expect.empty() || old_ ? read_body() : continue_body();
}

void HttpSession::continue_body() {
  static const std::string line = "HTTP/1.1 100 Continue\r\n\r\n";
  asio::async_write(socket_, asio::buffer(line), [self = shared_from_this()](error_code error, std::size_t) {
    error ? self->abort() : self->read_body();
  });
}

void HttpSession::read_body() {
  if (closed_) return;
  beast::http::async_read(socket_, buffer_, *parser_,
                          [self = shared_from_this()](error_code error, std::size_t) { self->on_body(error); });
}

void HttpSession::on_body(error_code error) {
  if (closed_) return;
  if (error == beast::http::error::body_limit)
    return refuse(413, fmt::format("the body is larger than {} bytes", shared_.config.max_body));
  if (timed_out_) return refuse(408, "the request's body took too long");
  if (error == beast::http::error::partial_message || (error && !http_session_file::of_parser(error))) return abort();
  if (error) return refuse(400, "the body is not well-formed: chunks, their lengths or their line ends are wrong");
  request_.body = std::move(parser_->get().body());
  dispatch();
}

void HttpSession::dispatch() {
  disarm();
  unread_body_ = false;
  parser_.reset();
  auto exchange = std::make_shared<HttpExchange>(shared_.io, weak_from_this(), shared_.config.max_behind);
  exchange_ = exchange;
  exchange_id_ = exchange.get();
  HttpRequest request = std::move(request_);
  watch();
  shared_.handler(std::move(request), std::move(exchange));
}

// Bytes of a next request are kept for it. A client that closes its side has left: this is how nginx sees it, too.
void HttpSession::watch() {
  if (watching_ || closed_ || input_closed_ || buffer_.size() >= (64 << 10)) return;
  watching_ = true;
  socket_.async_read_some(buffer_.prepare(4096), [self = shared_from_this()](error_code error, std::size_t bytes) {
    self->watching_ = false;
    if (self->closed_) return;
    self->buffer_.commit(bytes);
    self->on_watched(error);
  });
}

void HttpSession::on_watched(error_code error) {
  if (lingering_) return error ? close() : read_away();
  if (exchange_id_ == nullptr)  // answered meanwhile, which broke the reading off
    return error && error != asio::error::operation_aborted ? close() : wait_for_request();
  if (!error) return watch();
  if (error != asio::error::eof) return abort();
  input_closed_ = last_ = true;
  if (auto exchange = exchange_.lock()) exchange->leave();
}

}  // namespace rattan::serve
