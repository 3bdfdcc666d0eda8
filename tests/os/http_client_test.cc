#include "src/os/http_client.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "src/os/proc.h"

namespace {

// Answers one connection with fixed bytes, after having read the request, then holds the socket or closes it.
class OneAnswer {
 public:
  OneAnswer(std::string answer, bool hold) {
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(::bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    REQUIRE(::listen(listener_, 4) == 0);
    socklen_t length = sizeof address;
    ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this, answer = std::move(answer), hold] {
      int fd = ::accept(listener_, nullptr, nullptr);
      char buffer[65536];
      ssize_t n = ::recv(fd, buffer, sizeof buffer, 0);
      request_.assign(buffer, n > 0 ? static_cast<size_t>(n) : 0);
      for (size_t at = 0; at < answer.size();) {  // in small pieces
        size_t piece = std::min<size_t>(7, answer.size() - at);
        ssize_t sent = ::send(fd, answer.data() + at, piece, MSG_NOSIGNAL);
        if (sent <= 0) {
          break;
        }
        at += static_cast<size_t>(sent);
      }
      if (hold) {
        ::recv(fd, buffer, sizeof buffer, 0);  // until the client goes
      }
      ::close(fd);
    });
  }
  ~OneAnswer() {
    thread_.join();
    ::close(listener_);
  }
  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_) + "/x"; }
  const std::string& request() const { return request_; }

 private:
  int listener_ = -1, port_ = 0;
  std::string request_;
  std::thread thread_;
};

os::HttpRequest get(const std::string& url) {
  os::HttpRequest request;
  request.url = url;
  request.timeout_s = 5;
  return request;
}

constexpr const char* kHello =
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Name:  Value \r\nConnection: close\r\n\r\nhello";

}  // namespace

TEST_CASE("a plain answer") {
  OneAnswer server(kHello, false);
  auto response = os::http(get(server.url()));
  REQUIRE(response.ok());
  CHECK(response->status == 200);
  CHECK(response->body == "hello");
  bool found = false;
  for (const auto& [name, value] : response->headers) {
    found |= name == "x-name" && value == "Value";
  }
  CHECK(found);
}

TEST_CASE("a POST carries its body as JSON, without asking to continue") {
  std::string seen;
  {
    OneAnswer server(kHello, false);
    auto request = get(server.url());
    request.method = "POST";
    request.body = R"({"a":1})";
    request.headers = {{"Authorization", "Bearer k"}};
    REQUIRE(os::http(request).ok());
    seen = server.request();
  }
  CHECK(seen.starts_with("POST /x HTTP/1.1"));
  CHECK(seen.find("Content-Type: application/json") != std::string::npos);
  CHECK(seen.find("Authorization: Bearer k") != std::string::npos);
  CHECK(seen.find("Expect") == std::string::npos);
}

TEST_CASE("streamed data comes piece by piece and can be stopped; other answers are kept") {
  std::string got;
  auto streaming = [&](const std::string& answer) {
    OneAnswer server(answer, false);
    auto request = get(server.url());
    request.on_data = [&](std::string_view bytes) {
      got += bytes;
      return got.find("ll") == std::string::npos;
    };
    return os::http(request);
  };
  auto stopped = streaming(kHello);
  REQUIRE(stopped.ok());
  CHECK(stopped->stopped);
  CHECK(got.starts_with("hell"));
  auto refused = streaming("HTTP/1.1 400 Bad\r\nContent-Length: 3\r\n\r\nwhy");
  REQUIRE(refused.ok());
  CHECK(refused->status == 400);
  CHECK(refused->body == "why");
  CHECK_FALSE(refused->stopped);
}

TEST_CASE("each fault has its words") {
  auto fault = [](const base::Result<os::HttpResponse>& result) {
    REQUIRE_FALSE(result.ok());
    return os::http_fault(result.failure());
  };
  CHECK(fault(os::http(get("http://127.0.0.1:" + std::to_string(*os::free_port()) + "/"))) ==
        os::HttpFault::kRefused);
  CHECK(fault(os::http(get("ftp://127.0.0.1/"))) == os::HttpFault::kOther);
  CHECK(fault(os::http(get("file:///etc/passwd"))) == os::HttpFault::kOther);
  auto broken = get("http://127.0.0.1:1/");
  broken.headers = {{"X-Api-Key", "a\r\nEvil: 1"}};
  CHECK(os::http(broken).failure().what.find("line break") != std::string::npos);
  {
    OneAnswer server("", true);
    auto request = get(server.url());
    request.timeout_s = 0.2;
    auto result = os::http(request);
    CHECK(fault(result) == os::HttpFault::kTimedOut);
    CHECK(result.failure().to_string() == server.url() + ": timed out after 0.2 s");
  }
  {
    OneAnswer server("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nabc", true);
    auto request = get(server.url());
    request.stall_timeout_s = 0.2;
    CHECK(fault(os::http(request)) == os::HttpFault::kNoData);
  }
  {
    OneAnswer server("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nabc", false);
    CHECK(fault(os::http(get(server.url()))) == os::HttpFault::kClosed);
  }
  {
    OneAnswer server("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", false);
    CHECK(fault(os::http(get(server.url()))) == os::HttpFault::kClosed);
  }
  {
    OneAnswer server("", false);
    CHECK(fault(os::http(get(server.url()))) == os::HttpFault::kClosed);
  }
  {
    OneAnswer server(kHello, false);
    auto request = get(server.url());
    request.max_body_bytes = 3;
    CHECK(fault(os::http(request)) == os::HttpFault::kTooLarge);
  }
  {
    OneAnswer server("", true);
    auto request = get(server.url());
    std::atomic<bool> cancelled{false};
    request.cancelled = &cancelled;
    std::thread canceller([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      cancelled = true;
    });
    auto start = std::chrono::steady_clock::now();
    CHECK(fault(os::http(request)) == os::HttpFault::kCancelled);
    CHECK(std::chrono::steady_clock::now() - start < std::chrono::milliseconds(400));
    canceller.join();
  }
}

TEST_CASE("SSE across every chunk border") {
  const std::string stream =
      ": ping\n\ndata: one\n\ndata: two a\r\ndata:two b\r\n\r\nevent: x\nid: 3\ndata:  three\n\ndata:\n\n"
      "data: [DONE]\n\ndata: cut off";
  const std::vector<std::string> expected = {"one", "two a\ntwo b", " three", "", "[DONE]"};
  for (size_t first = 0; first <= stream.size(); ++first) {
    std::vector<std::string> events;
    os::SseParser parser;
    auto on_event = [&](std::string_view data) { events.emplace_back(data); };
    CHECK(parser.feed(std::string_view(stream).substr(0, first), on_event));
    CHECK(parser.feed(std::string_view(stream).substr(first), on_event));
    CHECK(events == expected);
  }
}

TEST_CASE("an endless SSE line is refused") {
  os::SseParser parser;
  std::string megabyte(1 << 20, 'x');
  int fed = 0;
  while (parser.feed(megabyte, [](std::string_view) {}) && fed < 100) {
    ++fed;
  }
  CHECK(fed == 16);
}
