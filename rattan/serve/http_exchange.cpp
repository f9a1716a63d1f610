#include <boost/asio/post.hpp>

#include "rattan/serve/http_session.h"

namespace rattan::serve {

HttpExchange::HttpExchange(asio::io_context& io, std::weak_ptr<HttpSession> session, int64_t max_behind)
    : io_(io), session_(std::move(session)), max_behind_(max_behind) {}

HttpExchange::~HttpExchange() {
  if (finished_) return;
  asio::post(io_, [session = session_] {
    if (auto s = session.lock()) s->abandoned();
  });
}

void HttpExchange::send(HttpResponse response) {
  asio::post(io_, [self = shared_from_this(), response = std::move(response)] {
    if (auto s = self->session_.lock()) s->send(*self, response);
  });
}

void HttpExchange::begin(HttpResponse head) {
  asio::post(io_, [self = shared_from_this(), head = std::move(head)] {
    if (auto s = self->session_.lock()) s->begin(*self, head);
  });
}

bool HttpExchange::write(std::string bytes) {
  if (gone_) return false;
  const auto size = static_cast<int64_t>(bytes.size());
  if (behind_.fetch_add(size) + size > max_behind_) {
    gone_ = true;
    asio::post(io_, [self = shared_from_this()] {
      if (auto s = self->session_.lock()) s->cut_off(*self);
    });
    return false;
  }
  asio::post(io_, [self = shared_from_this(), bytes = std::move(bytes)]() mutable {
    if (auto s = self->session_.lock()) s->write(*self, std::move(bytes));
  });
  return true;
}

void HttpExchange::end() {
  asio::post(io_, [self = shared_from_this()] {
    if (auto s = self->session_.lock()) s->end(*self);
  });
}

void HttpExchange::on_gone(std::function<void()> gone) {
  asio::post(io_, [self = shared_from_this(), gone = std::move(gone)]() mutable {
    if (self->finished_) return;
    if (self->gone_) return gone();
    self->gone_handlers_.push_back(std::move(gone));
  });
}

void HttpExchange::leave() {
  gone_ = true;
  std::vector<std::function<void()>> handlers;
  handlers.swap(gone_handlers_);
  for (const auto& handler : handlers) handler();
}

}  // namespace rattan::serve
