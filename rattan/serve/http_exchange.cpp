#include <algorithm>
#include <boost/asio/post.hpp>
#include <iterator>

#include "rattan/serve/http_session.h"

namespace rattan::serve {
namespace http_exchange_file {

struct Word {
  asio::io_context* io;
  std::function<void()> say;
};
struct Held {
  int batches = 0;
  std::vector<Word> words;
};
thread_local Held held;

template <class Say>
void post(asio::io_context& io, Say&& say) {
  if (held.batches > 0) return held.words.push_back({&io, std::forward<Say>(say)});
  asio::post(io, std::forward<Say>(say));
}

}  // namespace http_exchange_file

ReplyBatch::ReplyBatch() { ++http_exchange_file::held.batches; }

ReplyBatch::~ReplyBatch() {
  using http_exchange_file::held;
  if (--held.batches > 0) return;
  std::vector<http_exchange_file::Word> words;
  words.swap(held.words);
  while (!words.empty()) {  // once around, unless one thread answers for several servers
    asio::io_context* const io = words.front().io;
    const auto other =
        std::stable_partition(words.begin(), words.end(), [&](const auto& word) { return word.io == io; });
    std::vector<http_exchange_file::Word> mine(std::make_move_iterator(words.begin()), std::make_move_iterator(other));
    words.erase(words.begin(), other);
    asio::post(*io, [mine = std::move(mine)] {
      for (const auto& word : mine) word.say();
    });
  }
}

HttpExchange::HttpExchange(asio::io_context& io, std::weak_ptr<HttpSession> session, int64_t max_behind)
    : io_(io), session_(std::move(session)), max_behind_(max_behind) {}

HttpExchange::~HttpExchange() {
  if (finished_) return;
  http_exchange_file::post(io_, [session = session_] {
    if (auto s = session.lock()) s->abandoned();
  });
}

void HttpExchange::send(HttpResponse response) {
  http_exchange_file::post(io_, [self = shared_from_this(), response = std::move(response)] {
    if (auto s = self->session_.lock()) s->send(*self, response);
  });
}

void HttpExchange::begin(HttpResponse head) {
  http_exchange_file::post(io_, [self = shared_from_this(), head = std::move(head)] {
    if (auto s = self->session_.lock()) s->begin(*self, head);
  });
}

bool HttpExchange::write(std::string bytes) {
  if (gone_) return false;
  const auto size = static_cast<int64_t>(bytes.size());
  if (behind_.fetch_add(size) + size > max_behind_) {
    gone_ = true;
    http_exchange_file::post(io_, [self = shared_from_this()] {
      if (auto s = self->session_.lock()) s->cut_off(*self);
    });
    return false;
  }
  http_exchange_file::post(io_, [self = shared_from_this(), bytes = std::move(bytes)]() mutable {
    if (auto s = self->session_.lock()) s->write(*self, std::move(bytes));
  });
  return true;
}

void HttpExchange::end() {
  http_exchange_file::post(io_, [self = shared_from_this()] {
    if (auto s = self->session_.lock()) s->end(*self);
  });
}

void HttpExchange::on_gone(std::function<void()> gone) {
  http_exchange_file::post(io_, [self = shared_from_this(), gone = std::move(gone)]() mutable {
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
