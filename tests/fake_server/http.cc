#include "tests/fake_server/http.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <list>
#include <thread>

namespace fake {

bool Connection::send(std::string_view bytes) {
  while (!bytes.empty()) {
    ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n <= 0) {
      return false;
    }
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

bool Connection::read(Request& request) {
  std::string data;
  size_t head = std::string::npos, length = 0;
  while (head == std::string::npos || data.size() < head + 4 + length) {
    char buffer[1 << 16];
    ssize_t n = ::recv(fd_, buffer, sizeof buffer, 0);
    if (n <= 0 || data.size() > (64u << 20)) {
      return false;
    }
    data.append(buffer, static_cast<size_t>(n));
    if (head == std::string::npos && (head = data.find("\r\n\r\n")) != std::string::npos) {
      size_t at = data.find("Content-Length:");
      length = at < head ? std::strtoul(data.c_str() + at + 15, nullptr, 10) : 0;
    }
  }
  size_t blank = data.find(' '), end = data.find(' ', blank + 1);
  if (blank == std::string::npos || end == std::string::npos) {
    return false;
  }
  request.method = data.substr(0, blank);
  request.path = data.substr(blank + 1, end - blank - 1);
  request.body = data.substr(head + 4, length);
  return true;
}

void Connection::reply(int status, std::string_view body, std::string_view type) {
  send(
      fmt::format("HTTP/1.1 {} X\r\nServer: fake-server\r\nContent-Type: {}\r\nContent-Length: {}\r\n"
                  "Connection: close\r\n\r\n{}",
                  status, type, body.size(), body));
}

void Connection::start_stream() {
  send(
      "HTTP/1.1 200 OK\r\nServer: fake-server\r\nContent-Type: text/event-stream\r\n"
      "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n");
}

bool Connection::event(std::string_view data) {
  std::string text = fmt::format("data: {}\n\n", data);
  return send(fmt::format("{:x}\r\n{}\r\n", text.size(), text));
}

void Connection::end_stream() {
  send("0\r\n\r\n");
}

base::Result<int> listen_on(const std::string& host, int& port) {
  std::string where = fmt::format("{}:{}", host, port);
  int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int on = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);  // inherited by what is accepted
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  socklen_t length = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (::inet_pton(AF_INET, host.c_str(), &address.sin_addr) != 1 || ::bind(fd, generic, length) != 0 ||
      ::listen(fd, 64) != 0 || ::getsockname(fd, generic, &length) != 0) {
    int failure = errno;
    ::close(fd);
    return base::sys_error(where, "couldn't bind HTTP server socket", failure);
  }
  port = ntohs(address.sin_port);
  return fd;
}

void serve(int listener, const std::function<void(Connection&)>& handle) {
  std::list<std::thread> threads;  // never joined: the process ends by a signal or _exit
  for (;;) {
    int fd = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) {
      continue;
    }
    threads.emplace_back([fd, &handle] {
      Connection connection(fd);
      handle(connection);
      ::shutdown(fd, SHUT_WR);
      ::close(fd);
    });
  }
}

}  // namespace fake
