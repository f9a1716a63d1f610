// The HTTP server over real sockets: what it reads, what it refuses, and that no client holds it up.
#include "rattan/serve/http.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "rattan/base/error.h"

namespace rattan::serve {

using testing::HasSubstr;
using testing::StartsWith;

class Client {
 public:
  explicit Client(uint16_t port, int receive_buffer = 0) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    if (receive_buffer > 0) setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected = connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  ~Client() { close(fd_); }
  void say(const std::string& text) { sent = send(fd_, text.data(), text.size(), MSG_NOSIGNAL) > 0; }
  void shut() { shutdown(fd_, SHUT_WR); }
  // What comes until `count` answers' heads were seen and a moment is quiet, or the other side closes.
  std::string hear(int milliseconds = 150) {
    std::string out;
    char bytes[4096];
    pollfd wait{fd_, POLLIN, 0};
    while (poll(&wait, 1, milliseconds) > 0) {
      const ssize_t n = recv(fd_, bytes, sizeof bytes, 0);
      closed = n <= 0;
      reset = n < 0;
      if (closed) break;
      out.append(bytes, static_cast<std::size_t>(n));
    }
    return out;
  }
  bool connected = false, sent = false, closed = false, reset = false;

 private:
  int fd_;
};

class HttpTest : public testing::Test {
 protected:
  HttpTest() {
    config.port = 0;
    config.max_body = 1000;
    config.refusal = [](int status, const std::string& message) {
      return HttpResponse{status, message, "text/plain", {}};
    };
    config.record = [this](const HttpRecord& record) { aborted += record.complete ? 0 : 1; };
  }
  ~HttpTest() override {
    if (!server) return;
    server->stop();
    io.join();
  }
  void start() {
    server = std::make_unique<HttpServer>(config, [this](HttpRequest request, std::shared_ptr<Reply> reply) {
      if (request.path == "/wait" || request.path == "/stream") {
        reply->on_gone([this] { ++gone; });
        if (request.path == "/stream") reply->begin({200, "first\n", "text/plain", {}});
        held = std::move(reply);
        ++waiting;
        return;
      }
      if (request.path == "/drop") return;
      reply->send({200,
                   fmt::format("[{} {} {} {}]", request.method, request.path, request.query, request.body),
                   "text/plain",
                   {}});
    });
    io = std::thread([this] { server->run(); });
  }
  // A connection's whole exchange, without the lines that change from one to the next.
  std::string exchange(const std::string& text, bool* closed = nullptr) {
    Client client(server->port());
    client.say(text);
    std::string heard = client.hear();
    if (closed != nullptr) *closed = client.closed && !client.reset;
    return heard;
  }
  static void wait_for(const std::atomic<int>& count, int value) {
    for (int i = 0; i < 2000 && count < value; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_GE(count, value);
  }

  HttpConfig config;
  std::unique_ptr<HttpServer> server;
  std::shared_ptr<Reply> held;
  std::atomic<int> gone{0}, waiting{0}, aborted{0};
  std::thread io;
};

TEST_F(HttpTest, Answers) {
  start();
  EXPECT_THAT(exchange("GET /a?b=1 HTTP/1.1\r\nHost: x\r\n\r\n"), HasSubstr("[GET /a b=1 ]"));
  EXPECT_THAT(exchange("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nxyz"), HasSubstr("[POST /a  xyz]"));
  EXPECT_THAT(
      exchange("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"),
      HasSubstr("[POST /  abcde]"));
  EXPECT_THAT(exchange("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nz"),
              StartsWith("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK"));
  bool closed = false;
  EXPECT_THAT(exchange("GET /a HTTP/1.0\r\n\r\n", &closed), HasSubstr("[GET /a  ]"));
  EXPECT_TRUE(closed);
  const std::string head = exchange("HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(head, HasSubstr("Content-Length: 11\r\n"));
  EXPECT_TRUE(head.ends_with("\r\n\r\n"));
}

TEST_F(HttpTest, PipelinedRequestsAreAnsweredInOrder) {
  start();
  const std::string get = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n";
  const std::string all = exchange(get + "POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi" + get);
  const std::size_t first = all.find("[GET /a  ]"), second = all.find("[POST /b  hi]"), third = all.rfind("[GET /a  ]");
  ASSERT_NE(second, std::string::npos) << all;
  EXPECT_TRUE(first < second && second < third) << all;
}

// What two readers could take for different requests is refused, and its connection is closed.
TEST_F(HttpTest, AmbiguousRequestsAreRefused) {
  start();
  const std::string post = "POST /a HTTP/1.1\r\nHost: x\r\n";
  const std::string cases[] = {
      post + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
      post + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
      post + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
      post + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
      post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
      post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
      "POST /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
      post + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
      post + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
      post + "Content-Length: 3, 3\r\n\r\nabc",
      post + "Content-Length: +3\r\n\r\nabc",
      post + "Content-Length: -3\r\n\r\nabc",
      post + "Content-Length: 0x3\r\n\r\nabc",
      post + "Content-Length : 3\r\n\r\nabc",
      post + "Content-Length: 99999999999999999999\r\n\r\nabc",
      "GET /a HTTP/1.1\nHost: x\n\n",
      "GET /a HTTP/1.1\r\nHost: x\nFoo: bar\r\n\r\n",
      "GET /a HTTP/1.1\r\nHost: x\rFoo: bar\r\n\r\n",
      post + "Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
      post + "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
      post + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nabcd\r\n0\r\n\r\n",
      "GET /a HTTP/1.1\r\n\r\n",
      "GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
      "GET http://x/a HTTP/1.1\r\nHost: x\r\n\r\n",
      "GET  /a HTTP/1.1\r\nHost: x\r\n\r\n",
      "GET / HTTP/1.2\r\nHost: x\r\n\r\n",
      std::string("GET /a HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n", 36),
      "\x16\x03\x01\x02\x01\x01\x01\x01",
  };
  for (const std::string& text : cases) {
    SCOPED_TRACE(text);
    bool closed = false;
    const std::string answer = exchange(text + "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n", &closed);
    EXPECT_TRUE(answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.1 505")) << answer;
    EXPECT_THAT(answer, Not(HasSubstr("smuggled")));
    EXPECT_TRUE(closed);
  }
}

TEST_F(HttpTest, LimitsHaveTheirStatus) {
  config.header_seconds = config.body_seconds = 0.1;
  start();
  EXPECT_THAT(exchange("GET /" + std::string(40000, 'a') + " HTTP/1.1\r\nHost: x\r\n\r\n"), StartsWith("HTTP/1.1 431"));
  EXPECT_THAT(exchange("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n"), StartsWith("HTTP/1.1 413"));
  EXPECT_THAT(exchange("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\nabc"),
              StartsWith("HTTP/1.1 413"));
  EXPECT_THAT(exchange("POST / HTTP/1.1\r\nHost: x\r\nExpect: 7\r\nContent-Length: 1\r\n\r\na"),
              StartsWith("HTTP/1.1 417"));
  EXPECT_THAT(exchange("GET /a HT"), StartsWith("HTTP/1.1 408"));
  EXPECT_THAT(exchange("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc"), StartsWith("HTTP/1.1 408"));
}

TEST_F(HttpTest, TheGateRefusesBeforeTheBody) {
  config.gate = [](const HttpRequest& request) -> std::optional<HttpResponse> {
    if (request.header("authorization") == "yes") return std::nullopt;
    return HttpResponse{401, "no", "text/plain", {}};
  };
  start();
  EXPECT_THAT(exchange("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n"), StartsWith("HTTP/1.1 401"));
  EXPECT_THAT(exchange("GET / HTTP/1.1\r\nHost: x\r\nAuthorization: yes\r\n\r\n"), StartsWith("HTTP/1.1 200"));
}

TEST_F(HttpTest, Streams) {
  start();
  Client client(server->port());
  client.say("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
  wait_for(waiting, 1);
  EXPECT_THAT(client.hear(), HasSubstr("\r\n6\r\nfirst\n\r\n"));
  EXPECT_TRUE(held->write("more"));
  EXPECT_EQ(client.hear(), "4\r\nmore\r\n");
  held->end();
  EXPECT_EQ(client.hear(), "0\r\n\r\n");
  client.say("GET /a HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(client.hear(), HasSubstr("[GET /a  ]")) << "the connection should have been kept";
  EXPECT_EQ(gone, 0);
}

TEST_F(HttpTest, AVanishedClientIsNoticed) {
  start();
  {
    Client client(server->port());
    client.say("GET /wait HTTP/1.1\r\nHost: x\r\n\r\n");
    wait_for(waiting, 1);
  }
  wait_for(gone, 1);
  held.reset();
  wait_for(aborted, 1);
  {
    Client client(server->port());
    client.say("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
    wait_for(waiting, 2);
  }
  wait_for(gone, 2);
  held.reset();
  wait_for(aborted, 2);
  for (int i = 0; i < 2000 && server->connections() > 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(server->connections(), 0);
  EXPECT_THAT(exchange("GET /a HTTP/1.1\r\nHost: x\r\n\r\n"), HasSubstr("[GET /a  ]"));
}

TEST_F(HttpTest, AReaderThatFallsBehindIsCutOff) {
  config.max_behind = 100000;
  start();
  Client client(server->port(), 4096);
  client.say("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
  wait_for(waiting, 1);
  const std::string piece(10000, 'x');
  bool taken = true;
  for (int i = 0; i < 1000 && taken; ++i) taken = held->write(piece);
  EXPECT_FALSE(taken);
  wait_for(gone, 1);
  wait_for(aborted, 1);
}

TEST_F(HttpTest, AReaderThatTakesNothingIsCutOff) {
  config.write_seconds = 0.1;
  config.max_behind = 100 << 20;
  start();
  Client client(server->port(), 4096);
  client.say("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
  wait_for(waiting, 1);
  held->write(std::string(4 << 20, 'x'));
  wait_for(gone, 1);
}

TEST_F(HttpTest, AForgottenReplyClosesTheConnection) {
  start();
  Client client(server->port());
  client.say("GET /drop HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(client.hear(), "");
  EXPECT_TRUE(client.closed);
}

// Idle connections give way, those at work do not.
TEST_F(HttpTest, ConnectionsAreLimited) {
  config.max_connections = 4;
  start();
  Client busy(server->port());
  busy.say("GET /wait HTTP/1.1\r\nHost: x\r\n\r\n");
  wait_for(waiting, 1);
  std::vector<std::unique_ptr<Client>> idle;
  for (int i = 0; i < 50; ++i) idle.push_back(std::make_unique<Client>(server->port()));
  EXPECT_THAT(exchange("GET /a HTTP/1.1\r\nHost: x\r\n\r\n"), HasSubstr("[GET /a  ]"));
  EXPECT_LE(server->connections(), 4);
  held->send({200, "done", "text/plain", {}});
  EXPECT_THAT(busy.hear(), HasSubstr("done"));
}

TEST_F(HttpTest, DrainFinishesWhatIsUnderWay) {
  start();
  Client idle(server->port()), busy(server->port());
  busy.say("GET /wait HTTP/1.1\r\nHost: x\r\n\r\n");
  wait_for(waiting, 1);
  const uint16_t port = server->port();
  server->drain();
  EXPECT_EQ(idle.hear(), "");
  EXPECT_TRUE(idle.closed);
  EXPECT_FALSE(Client(port).connected);
  held->send({200, "done", "text/plain", {}});
  const std::string answer = busy.hear();
  EXPECT_THAT(answer, HasSubstr("done"));
  EXPECT_THAT(answer, HasSubstr("Connection: close"));
  io.join();
  io = std::thread([] {});
}

TEST_F(HttpTest, AnAddressThatIsTakenIsExplained) {
  start();
  config.port = server->port();
  EXPECT_THROW(HttpServer(config, [](const HttpRequest&, const std::shared_ptr<Reply>&) {}), InputError);
  config.host = "nowhere.example";
  EXPECT_THROW(HttpServer(config, [](const HttpRequest&, const std::shared_ptr<Reply>&) {}), InputError);
}

}  // namespace rattan::serve
