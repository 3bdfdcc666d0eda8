#include "src/os/http_server.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "tests/little_memory.h"

using os::HttpIncoming;
using os::HttpReply;
using os::HttpServer;
using os::HttpServerOptions;

namespace {

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// A client that sends exactly what it is told.
class RawClient {
 public:
  explicit RawClient(int port) : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = ::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  ~RawClient() { ::close(fd_); }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;
  bool connected() const { return connected_; }
  bool send(std::string_view bytes) const {
    while (!bytes.empty()) {
      ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) {
        return false;
      }
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    return true;
  }
  // Reads until `marker` has come, the server closes, or 5 s pass.
  std::string read_until(std::string_view marker) {
    std::string out;
    while (out.find(marker) == std::string::npos) {
      pollfd fd = {fd_, POLLIN, 0};
      char buffer[4096];
      ssize_t n = ::poll(&fd, 1, 5000) > 0 ? ::recv(fd_, buffer, sizeof buffer, 0) : -1;
      if (n <= 0) {
        closed_ = n == 0;
        break;
      }
      out.append(buffer, static_cast<size_t>(n));
    }
    return out;
  }
  bool closed() const { return closed_; }

 private:
  int fd_;
  bool connected_ = false, closed_ = false;
};

HttpServerOptions small_options() {
  HttpServerOptions options;
  options.n_threads = 2;
  options.n_urgent_threads = 1;
  options.urgent = [](std::string_view path) { return path == "/health"; };
  options.limits.max_body_bytes = 1000;
  options.headers = {{"Server", "test"}};
  return options;
}

std::unique_ptr<HttpServer> serve(HttpServer::Handler handler, HttpServerOptions options = small_options()) {
  auto server = HttpServer::bind(std::move(options));
  REQUIRE(server);
  REQUIRE((*server)->start(std::move(handler)).ok());
  return std::move(server).value();
}

void echo(const HttpIncoming& request, HttpReply& reply) {
  reply.send(200, "text/plain", request.method + " " + request.path + " " + request.body);
}

}  // namespace

TEST_CASE("a connection serves many requests, pipelined ones too") {
  auto server = serve(echo);
  RawClient client(server->port());
  REQUIRE(client.connected());
  client.send("GET /1 HTTP/1.1\r\nHost: h\r\n\r\n");
  CHECK(client.read_until("/1 ").find("200 OK") != std::string::npos);
  client.send(
      "POST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET /3 HTTP/1.1\r\nHost: h\r\nConnection: "
      "close\r\n\r\n");
  std::string both = client.read_until("GET /3 ");
  CHECK(both.find("POST /2 abc") != std::string::npos);
  CHECK(both.find("Server: test") != std::string::npos);
  client.read_until("never");
  CHECK(client.closed());
}

TEST_CASE("a second server on the port is an error, and the port is free again at once") {
  auto first = serve(echo);
  HttpServerOptions options = small_options();
  options.port = first->port();
  auto second = HttpServer::bind(options);
  REQUIRE_FALSE(second.ok());
  CHECK(second.failure().what.find("couldn't bind HTTP server socket, hostname: 127.0.0.1, port: ") == 0);
  CHECK_FALSE(second.failure().next.empty());
  {
    RawClient client(first->port());  // leaves a connection in TIME_WAIT
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    client.read_until("GET / ");
    first->stop();
  }
  CHECK(HttpServer::bind(options).ok());
  options.host = "no.such.host.invalid";
  CHECK_FALSE(HttpServer::bind(options).ok());
}

TEST_CASE("body limits hold, for chunked bodies too") {
  auto server = serve(echo);
  RawClient announced(server->port());
  announced.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n\r\n");
  CHECK(announced.read_until("too large").find(" 413 ") != std::string::npos);
  RawClient huge(server->port());
  huge.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999999\r\n\r\n");
  CHECK(huge.read_until("never").find(" 200 ") == std::string::npos);
  RawClient chunked(server->port());
  chunked.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
  std::string chunk = "100\r\n" + std::string(256, 'x') + "\r\n";
  for (int i = 0; i < 100 && chunked.send(chunk); ++i) {
  }
  CHECK(chunked.read_until("never").find(" 200 ") == std::string::npos);
  RawClient whole(server->port());
  whole.send(
      "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5;x=1\r\nhello\r\n3\r\n, "
      "w\r\n0\r\n\r\n");
  CHECK(whole.read_until("hello, w").find("POST / hello, w") != std::string::npos);
}

TEST_CASE("slow uploads may hold only so much memory together") {
  HttpServerOptions options = small_options();
  options.limits.max_bodies_bytes = 2500;
  auto server = serve(echo, options);
  const std::string head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n";
  auto upload = [&](RawClient& client, size_t bytes) { client.send(head + std::string(bytes, 'x')); };
  auto answers = [&] {  // and so all that was sent before has been received
    RawClient client(server->port());
    client.send("GET /small HTTP/1.1\r\nHost: h\r\n\r\n");
    return client.read_until("/small").find("200 OK") != std::string::npos;
  };
  auto first = std::make_unique<RawClient>(server->port()),
       second = std::make_unique<RawClient>(server->port());
  upload(*first, 900);
  upload(*second, 900);
  CHECK(answers());
  RawClient third(server->port());
  upload(third, 10);
  CHECK(third.read_until("later").find(" 503 ") != std::string::npos);
  RawClient chunked(server->port());
  chunked.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
  for (int i = 0; i < 8 && chunked.send("64\r\n" + std::string(100, 'x') + "\r\n"); ++i) {
  }
  chunked.read_until("never");
  CHECK(chunked.closed());
  // What hangs up in the middle gives its share back; the other goes on as if nothing had been.
  first.reset();
  CHECK(answers());
  second->send(std::string(100, 'y'));
  CHECK(second->read_until("yyyyy").find("200 OK") != std::string::npos);
  for (int i = 0; i < 5; ++i) {  // answered requests give it back, too
    RawClient fourth(server->port());
    upload(fourth, 1000);
    CHECK(fourth.read_until("xxxxx").find("200 OK") != std::string::npos);
  }
}

TEST_CASE("what uploads announce is kept for them, and what does not fit is told before its body") {
  HttpServerOptions options = small_options();
  options.limits.max_bodies_bytes = 2500;
  auto server = serve(echo, options);
  const std::string head =
      "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n";
  RawClient first(server->port()), second(server->port()), third(server->port());
  for (RawClient* client : {&first, &second}) {
    client->send(head);
    CHECK(client->read_until("\r\n\r\n").find("100 Continue") != std::string::npos);
  }
  third.send(head);
  CHECK(third.read_until("later").find(" 503 ") != std::string::npos);
  for (RawClient* client : {&first, &second}) {
    client->send(std::string(1000, 'x'));
    CHECK(client->read_until("xxxxx").find("200 OK") != std::string::npos);
  }
}

TEST_CASE(
    "uploads that stop short or drip are cut and give their share back; the handler's time is its own") {
  HttpServerOptions options = small_options();
  options.limits.max_bodies_bytes = 2000;
  options.body_timeout_s = 1;
  auto server = serve(
      [](const HttpIncoming& request, HttpReply& reply) {
        std::this_thread::sleep_for(std::chrono::milliseconds(2500));
        reply.send(200, "text/plain", request.body);
      },
      options);
  const std::string head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n";
  RawClient idle(server->port()), silent(server->port()), dripping(server->port());
  silent.send(head);
  dripping.send(head);
  const auto begin = std::chrono::steady_clock::now();
  bool cut = false;
  for (int i = 0; i < 1000 && !cut && seconds_since(begin) < 30; ++i) {
    cut = !dripping.send("x");
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  CHECK(cut);
  silent.read_until("never");
  CHECK(silent.closed());
  RawClient honest(server->port());
  honest.send(head + std::string(1000, 'y'));
  CHECK(honest.read_until("yyyyy").find("200 OK") != std::string::npos);
  idle.send(head + std::string(1000, 'z'));  // connected all the while: nothing was open on it
  CHECK(idle.read_until("zzzzz").find("200 OK") != std::string::npos);
}

TEST_CASE("what is no HTTP is refused and the server goes on") {
  auto server = serve(echo);
  for (const char* text :
       {"\x16\x03\x01\x02\x01\r\n\r\n", "GET /\r\n\r\n", "GET / HTTP/1.1\r\nHost: h\r\n A: folded\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n"}) {
    CAPTURE(text);
    RawClient client(server->port());
    client.send(text);
    CHECK(client.read_until("never").find(" 200 ") == std::string::npos);
  }
  RawClient long_head(server->port());
  long_head.send("GET / HTTP/1.1\r\nA: " + std::string(100000, 'x'));
  CHECK(long_head.read_until("never").find(" 200 ") == std::string::npos);
  RawClient client(server->port());
  client.send("GET /a%20b?x=1 HTTP/1.1\r\nHost: h\r\n\r\n");
  CHECK(client.read_until("GET /a b ").find("200 OK") != std::string::npos);
}

TEST_CASE("Expect: 100-continue is answered before the body") {
  auto server = serve(echo);
  RawClient client(server->port());
  client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
  CHECK(client.read_until("\r\n\r\n").find("100 Continue") != std::string::npos);
  client.send("ok");
  CHECK(client.read_until("POST / ok").find("200 OK") != std::string::npos);
}

TEST_CASE("slow and idle clients cost no thread, and health answers while every handler is busy") {
  std::atomic<bool> release{false};
  auto server = serve([&](const HttpIncoming& request, HttpReply& reply) {
    while (request.path == "/slow" && !release) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    reply.send(200, "text/plain", request.path);
  });
  std::vector<std::unique_ptr<RawClient>> others;
  for (int i = 0; i < 40; ++i) {
    others.push_back(std::make_unique<RawClient>(server->port()));
    others.back()->send(i < 4 ? "GET /slow HTTP/1.1\r\nHost: h\r\n\r\n" : i < 20 ? "GET /half" : "");
  }
  RawClient client(server->port());
  client.send("GET /health HTTP/1.1\r\nHost: h\r\n\r\n");
  auto begin = std::chrono::steady_clock::now();
  CHECK(client.read_until("/health").find("200 OK") != std::string::npos);
  CHECK(seconds_since(begin) < 1);
  release = true;
  CHECK(others[3]->read_until("/slow").find("200 OK") != std::string::npos);
}

TEST_CASE(
    "clients that do not read their streams hold a thread for write_timeout_s each, and no urgent one") {
  HttpServerOptions options = small_options();
  options.write_timeout_s = 0.1;
  std::atomic<int> blocked{0}, given_up{0};
  auto server = serve(
      [&](const HttpIncoming& request, HttpReply& reply) {
        if (request.path != "/stream") {
          return reply.send(200, "text/plain", request.path);
        }
        ++blocked;
        const std::string piece(64 << 10, 'x');
        for (reply.begin_stream("text/plain"); reply.write(piece);) {
        }
        ++given_up;
      },
      options);
  std::vector<std::unique_ptr<RawClient>> deaf;  // three for each thread
  for (int i = 0; i < 3 * options.n_threads; ++i) {
    deaf.push_back(std::make_unique<RawClient>(server->port()));
    deaf.back()->send("GET /stream HTTP/1.1\r\nHost: h\r\n\r\n");
  }
  while (blocked < options.n_threads) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  RawClient probe(server->port()), client(server->port());
  client.send("GET /later HTTP/1.1\r\nHost: h\r\n\r\n");
  probe.send("GET /health HTTP/1.1\r\nHost: h\r\n\r\n");
  CHECK(probe.read_until("/health").find("200 OK") != std::string::npos);
  CHECK(client.read_until("/later").find("200 OK") != std::string::npos);
  CHECK(given_up > 0);
}

TEST_CASE("a handler sees its client hang up") {
  std::atomic<bool> saw{false}, started{false};
  auto server = serve([&](const HttpIncoming&, HttpReply& reply) {
    CHECK_FALSE(reply.client_gone());
    started = true;
    for (int i = 0; i < 500 && !saw; ++i) {
      saw = reply.client_gone();
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  });
  {
    RawClient client(server->port());
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    while (!started) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  for (int i = 0; i < 500 && !saw; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  CHECK(saw);
}

TEST_CASE("streams are chunked; one that is not ended is cut") {
  auto server = serve([](const HttpIncoming& request, HttpReply& reply) {
    reply.begin_stream("text/event-stream");
    reply.write("data: 1\n\n");
    if (request.path == "/whole") {
      reply.end_stream();
    }
  });
  RawClient client(server->port());
  client.send("GET /whole HTTP/1.1\r\nHost: h\r\n\r\n");
  std::string text = client.read_until("0\r\n\r\n");
  CHECK(text.find("Transfer-Encoding: chunked") != std::string::npos);
  CHECK(text.find("9\r\ndata: 1\n\n\r\n0\r\n\r\n") != std::string::npos);
  client.send("GET /cut HTTP/1.1\r\nHost: h\r\n\r\n");
  CHECK(client.read_until("never").find("0\r\n\r\n") == std::string::npos);
  CHECK(client.closed());
  RawClient old(server->port());
  old.send("GET /whole HTTP/1.0\r\n\r\n");
  CHECK(old.read_until("never").find("\r\n\r\ndata: 1\n\n") != std::string::npos);
  CHECK(old.closed());
}

TEST_CASE("stop wakes idle clients and a blocked write, and returns at once") {
  std::atomic<bool> writing{false};
  auto server = serve([&](const HttpIncoming&, HttpReply& reply) {
    reply.begin_stream("text/plain");
    std::string big(1 << 20, 'x');
    writing = true;
    while (reply.write(big)) {
    }
  });
  RawClient idle(server->port()), half(server->port()), deaf(server->port());
  half.send("GET /");
  deaf.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  while (!writing) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(100));  // let the socket's buffers fill
  auto begin = std::chrono::steady_clock::now();
  server->stop();
  CHECK(seconds_since(begin) < 0.5);
  idle.read_until("never");
  CHECK(idle.closed());
}

TEST_CASE("a request that completes while stop lets a large answer leave is dropped, not left suspended") {
  std::atomic<bool> answered{false};
  auto server = serve([&](const HttpIncoming& request, HttpReply& reply) {
    const bool large = request.path == "/large";
    reply.send(200, "text/plain", large ? std::string(32u << 20, 'x') : "ok");
    answered = large;
  });
  RawClient deaf(server->port()), poller(server->port());
  const std::string rest = " HTTP/1.1\r\nHost: h\r\n\r\n";
  poller.send("GET /first" + rest);
  CHECK(poller.read_until("ok").find(" 200 ") != std::string::npos);
  deaf.send("GET /large" + rest);
  while (!answered) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  std::thread stopper([&] { server->stop(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(100));  // the handlers' threads are gone
  poller.send("GET /late" + rest);
  stopper.join();  // aborts where a suspended connection is left
  CHECK(poller.read_until("never").empty());
  CHECK(poller.closed());
}

TEST_CASE("threads that cannot be had are an error that names the flag") {
  HttpServerOptions options = small_options();
  options.n_threads = 4096;
  auto server = HttpServer::bind(std::move(options));
  REQUIRE(server);
  {
    const fixtures::LittleMemory limit(256u << 20);
    auto started = (*server)->start(echo);
    REQUIRE_FALSE(started.ok());
    CHECK(started.failure().what.find("couldn't start 4097 HTTP threads: ") == 0);
    CHECK(started.failure().next.find("--threads-http") != std::string::npos);
  }
  (*server)->stop();
}

TEST_CASE("a handler that throws or says nothing is a 500, and the server goes on") {
  auto server = serve([](const HttpIncoming& request, HttpReply& reply) {
    if (request.path == "/throw") {
      throw std::runtime_error("boom");
    }
    if (request.path == "/ok") {
      reply.send(200, "text/plain", "fine");
    }
  });
  for (const char* path : {"/throw", "/nothing"}) {
    RawClient client(server->port());
    client.send(std::string("GET ") + path + " HTTP/1.1\r\nHost: h\r\n\r\n");
    CHECK(client.read_until("500 ").find("500 ") != std::string::npos);
  }
  RawClient client(server->port());
  client.send("HEAD /ok HTTP/1.1\r\nHost: h\r\n\r\n");
  std::string head = client.read_until("\r\n\r\n");
  CHECK(head.find("Content-Length: 4") != std::string::npos);
  CHECK(head.ends_with("\r\n\r\n"));
}

TEST_CASE("a connection on which nothing moves is closed") {
  HttpServerOptions options = small_options();
  options.idle_timeout_s = 1;
  auto server = serve(echo, options);
  RawClient half(server->port()), idle(server->port());
  half.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab");
  half.read_until("never");
  idle.read_until("never");
  CHECK(half.closed());
  CHECK(idle.closed());
}
