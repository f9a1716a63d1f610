// Writing answers.
#include <fmt/core.h>

#include <boost/asio/write.hpp>
#include <ctime>

#include "rattan/serve/http_session.h"

namespace rattan::serve {
namespace http_answer_file {

constexpr std::size_t kLingerBytes = 1 << 20;
constexpr double kLingerSeconds = 2;

std::string date_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[40];
  const std::size_t size = std::strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &parts);
  return {text, size};
}

std::string chunk(const std::string& bytes) { return fmt::format("{:x}\r\n", bytes.size()) + bytes + "\r\n"; }

}  // namespace http_answer_file

std::string HttpSession::head_of(const HttpResponse& response, bool stream) {
  std::string head = fmt::format("HTTP/1.1 {} {}\r\nDate: {}\r\nX-Request-Id: {}\r\n", response.status,
                                 reason_of(response.status), http_answer_file::date_now(), record_.id);
  if (!response.type.empty()) head += fmt::format("Content-Type: {}\r\n", response.type);
  for (const auto& [name, value] : response.headers) head += fmt::format("{}: {}\r\n", name, value);
  if (chunked_) {
    head += "Transfer-Encoding: chunked\r\n";
  } else if (!stream && response.status != 204) {
    head += fmt::format("Content-Length: {}\r\n", response.body.size());
  }
  if (last_) head += "Connection: close\r\n";
  if (!last_ && old_) head += "Connection: keep-alive\r\n";
  return head + "\r\n";
}

void HttpSession::send(HttpExchange& from, const HttpResponse& response) {
  if (!is_current(from) || started_) return;
  started_ = ended_ = true;
  last_ = last_ || shared_.draining;
  record_.status = response.status;
  std::string bytes = head_of(response, false);
  if (!head_only_) bytes += response.body;
  push(std::move(bytes));
}

void HttpSession::begin(HttpExchange& from, const HttpResponse& head) {
  if (!is_current(from) || started_) return;
  started_ = true;
  chunked_ = !old_;
  last_ = last_ || shared_.draining || old_;
  record_.status = head.status;
  std::string bytes = head_of(head, true);
  if (!head.body.empty()) bytes += chunked_ ? http_answer_file::chunk(head.body) : head.body;
  push(std::move(bytes));
}

void HttpSession::write(HttpExchange& from, std::string bytes) {
  if (!is_current(from) || !started_ || ended_ || bytes.empty()) return;
  const std::size_t counted = bytes.size();
  push(chunked_ ? http_answer_file::chunk(bytes) : std::move(bytes), counted);
}

void HttpSession::end(HttpExchange& from) {
  if (!is_current(from) || !started_ || ended_) return;
  ended_ = true;
  if (chunked_) out_.push_back({"0\r\n\r\n", 0});
  flush();
}

void HttpSession::abandoned() {
  if (closed_ || exchange_id_ == nullptr || ended_ || !exchange_.expired()) return;
  abort();
}

void HttpSession::refuse(int status, const std::string& message) { refuse(shared_.config.refusal(status, message)); }

// Before the handler saw the request. What is left of it was not understood or is not wanted: the connection ends.
void HttpSession::refuse(const HttpResponse& response) {
  parser_.reset();
  last_ = last_ || unread_body_;
  started_ = ended_ = true;
  record_.status = response.status;
  std::string bytes = head_of(response, false);
  if (!head_only_) bytes += response.body;
  push(std::move(bytes));
}

void HttpSession::push(std::string bytes, std::size_t counted) {
  out_.push_back({std::move(bytes), counted});
  flush();
}

void HttpSession::flush() {
  if (busy_writing_ || closed_) return;
  if (out_.empty()) {
    if (ended_) answered();
    return;
  }
  writing_.clear();
  writing_counted_ = 0;
  for (; !out_.empty() && writing_.size() < (256 << 10); out_.pop_front()) {
    writing_ += out_.front().bytes;
    writing_counted_ += out_.front().counted;
  }
  busy_writing_ = true;
  write_left_ = writing_;
  write_some();
}

void HttpSession::write_some() {
  arm(shared_.config.write_seconds, &HttpSession::abort);
  socket_.async_write_some(asio::buffer(write_left_.data(), write_left_.size()),
                           [self = shared_from_this()](error_code error, std::size_t bytes) {
                             if (self->closed_) return;
                             if (error) return self->abort();
                             self->record_.bytes += bytes;
                             self->write_left_.remove_prefix(bytes);
                             self->write_left_.empty() ? self->on_flushed() : self->write_some();
                           });
}

void HttpSession::on_flushed() {
  disarm();
  busy_writing_ = false;
  if (auto exchange = exchange_.lock()) exchange->sent(writing_counted_);
  flush();
}

void HttpSession::answered() {
  disarm();
  record(true);
  if (auto exchange = exchange_.lock()) exchange->finish();
  exchange_.reset();
  exchange_id_ = nullptr;
  writing_ = {};
  if (last_) return linger();
  if (!watching_) return wait_for_request();
  error_code ignored;
  socket_.cancel(ignored);  // on_watched goes on
}

// Closing with unread bytes resets the connection, and the client might never see its answer. So the other side is
// given a moment to close first.
void HttpSession::linger() {
  if (closed_) return;
  lingering_ = true;
  error_code ignored;
  socket_.shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  if (input_closed_) return close();
  arm(http_answer_file::kLingerSeconds, &HttpSession::close);
  if (!watching_) read_away();
}

void HttpSession::read_away() {
  if (closed_) return;
  lingered_ += buffer_.size();
  buffer_.consume(buffer_.size());
  if (lingered_ > http_answer_file::kLingerBytes) return close();
  socket_.async_read_some(buffer_.prepare(4096), [self = shared_from_this()](error_code error, std::size_t bytes) {
    if (self->closed_) return;
    if (error) return self->close();
    self->buffer_.commit(bytes);
    self->read_away();
  });
}

void HttpSession::cut_off(HttpExchange& from) {
  if (is_current(from)) abort();
}

void HttpSession::drain() {
  if (closed_ || !idle_) return;
  close();
}

// Without leave of the client: it left, or was too slow.
void HttpSession::abort() {
  if (closed_) return;
  error_code ignored;
  socket_.set_option(asio::socket_base::linger(true, 0), ignored);  // what is still unsent is of no use to anyone
  close();
}

void HttpSession::close() {
  if (closed_) return;
  const auto self = shared_from_this();  // until the end of this function
  closed_ = true;
  become_busy();
  shared_.all.erase(all_at_);
  disarm();
  error_code ignored;
  socket_.close(ignored);
  record(false);
  if (auto exchange = exchange_.lock()) exchange->leave();
  exchange_id_ = nullptr;
}

void HttpSession::record(bool complete) {
  if (recorded_) return;
  recorded_ = true;
  record_.complete = complete;
  record_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count();
  if (shared_.config.record) shared_.config.record(record_);
}

}  // namespace rattan::serve
