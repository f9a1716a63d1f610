// Accepting connections.
#include <fmt/core.h>
#include <sys/resource.h>

#include <boost/asio/dispatch.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <condition_variable>
#include <mutex>
#include <random>

#include "rattan/base/error.h"
#include "rattan/serve/http_session.h"

namespace rattan::serve {
namespace http_server_file {

// Ids differ from one run of the server to the next.
std::string random_prefix() {
  std::random_device device;
  return fmt::format("req-{:08x}-", device());
}

// As many connections as wanted need as many files; half of the usual soft limit is soon used up.
int64_t connections_of(int64_t wanted) {
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return wanted;
  const rlim_t need = static_cast<rlim_t>(wanted) + 256;
  if (files.rlim_cur < need) {
    files.rlim_cur = std::min(need, files.rlim_max);
    setrlimit(RLIMIT_NOFILE, &files);
    getrlimit(RLIMIT_NOFILE, &files);
  }
  return std::min(wanted, std::max<int64_t>(16, static_cast<int64_t>(files.rlim_cur) - 256));
}

}  // namespace http_server_file

struct HttpServer::Impl {
  HttpConfig config;
  HttpHandler handler;
  asio::io_context io{1};
  asio::ip::tcp::acceptor acceptor{io};
  asio::signal_set signals{io};
  asio::steady_timer retry{io};
  HttpShared shared{io, config, handler, {}, {}, {}, false, http_server_file::random_prefix(), 0};
  bool loopback = false;
  std::mutex mutex;
  std::condition_variable signalled;
  bool ended = false;

  void listen();
  void accept();
  void admit(asio::ip::tcp::socket socket);
  void drain();
  void wake() {
    const std::lock_guard lock(mutex);
    ended = true;
    signalled.notify_all();
  }
};

void HttpServer::Impl::listen() {
  error_code error;
  const std::string host = config.host == "localhost" ? "127.0.0.1" : config.host;
  const auto address = asio::ip::make_address(host, error);
  require(!error, "--host takes an address such as 127.0.0.1, 0.0.0.0 or ::1, not '{}'", config.host);
  loopback = address.is_loopback();
  const asio::ip::tcp::endpoint endpoint(address, config.port);
  auto check = [&](const char* what) {
    require(!error, "cannot {} {} port {}: {}; is another server running there? --port takes another", what, host,
            config.port, error.message());
  };
  acceptor.open(endpoint.protocol(), error);
  check("open");
  acceptor.set_option(asio::socket_base::reuse_address(true), error);
  acceptor.bind(endpoint, error);
  check("bind to");
  acceptor.listen(asio::socket_base::max_listen_connections, error);
  check("listen on");
}

void HttpServer::Impl::accept() {
  acceptor.async_accept([this](error_code error, asio::ip::tcp::socket socket) {
    if (shared.draining || error == asio::error::operation_aborted) return;
    if (!error) {
      admit(std::move(socket));
      return accept();
    }
    // Out of files, most likely: the oldest idle connection gives way, and a moment passes.
    if (!shared.idle.empty())
      if (auto oldest = shared.idle.front().lock()) oldest->close();
    retry.expires_after(std::chrono::milliseconds(50));
    retry.async_wait([this](error_code stopped) {
      if (!stopped && !shared.draining) accept();
    });
  });
}

void HttpServer::Impl::admit(asio::ip::tcp::socket socket) {
  if (shared.open >= config.max_connections) {
    // Those that wait for nothing make room; where all are at work, the newcomer has to come back.
    const auto oldest = shared.idle.empty() ? nullptr : shared.idle.front().lock();
    if (oldest == nullptr) {
      error_code ignored;
      static const std::string busy =
          "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
      socket.non_blocking(true, ignored);
      socket.write_some(asio::buffer(busy), ignored);
      return;
    }
    oldest->close();
  }
  std::make_shared<HttpSession>(std::move(socket), shared)->start();
}

void HttpServer::Impl::drain() {
  if (shared.draining) return;
  shared.draining = true;
  error_code ignored;
  acceptor.close(ignored);
  retry.cancel();
  signals.clear(ignored);
  signals.cancel(ignored);
  const auto sessions = shared.all;
  for (const auto& session : sessions) session->drain();
}

HttpServer::HttpServer(HttpConfig config, HttpHandler handler) : impl_(std::make_unique<Impl>()) {
  impl_->config = std::move(config);
  impl_->handler = std::move(handler);
  impl_->config.max_connections = http_server_file::connections_of(impl_->config.max_connections);
  impl_->listen();
}

HttpServer::~HttpServer() {
  // Handlers that were never run hold sessions, which hold the shared part.
  const auto sessions = impl_->shared.all;
  for (const auto& session : sessions) session->close();
  impl_->io.restart();
  impl_->io.poll();
}

uint16_t HttpServer::port() const { return impl_->acceptor.local_endpoint().port(); }
bool HttpServer::loopback() const { return impl_->loopback; }
int64_t HttpServer::connections() const { return impl_->shared.open; }

void HttpServer::run() {
  Impl& impl = *impl_;
  impl.accept();
  impl.signals.async_wait([&impl](error_code error, int) {
    error_code ignored;
    impl.signals.clear(ignored);  // the next one ends the process
    if (!error) impl.wake();
  });
  impl.io.run();
  impl.wake();
}

void HttpServer::drain() {
  asio::post(impl_->io, [this] { impl_->drain(); });
}

void HttpServer::stop() {
  asio::post(impl_->io, [this] {
    impl_->drain();
    const auto sessions = impl_->shared.all;
    for (const auto& session : sessions) session->close();
  });
}

void HttpServer::catch_signals() {
  impl_->signals.add(SIGINT);
  impl_->signals.add(SIGTERM);
}

void HttpServer::wait_for_signal() {
  std::unique_lock lock(impl_->mutex);
  impl_->signalled.wait(lock, [this] { return impl_->ended; });
}

}  // namespace rattan::serve
