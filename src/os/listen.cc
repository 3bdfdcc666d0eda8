#include "src/os/listen.h"

#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

namespace os {
namespace {

int port_of(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&address)->sin6_port
                                             : reinterpret_cast<sockaddr_in*>(&address)->sin_port);
}

// The listening socket, or -1 with errno set.
int listen_on(const addrinfo& address, int backlog) {
  int fd =
      ::socket(address.ai_family, address.ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, address.ai_protocol);
  if (fd < 0) {
    return -1;
  }
  int on = 1;
  if (::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
      ::bind(fd, address.ai_addr, address.ai_addrlen) == 0 && ::listen(fd, backlog) == 0) {
    return fd;
  }
  int saved = errno;
  ::close(fd);
  errno = saved;
  return -1;
}

}  // namespace

base::Result<Listener> listen_tcp(const std::string& host, int port, int backlog) {
  std::string where = fmt::format("{}:{}", host, port);
  std::string what = fmt::format("couldn't bind HTTP server socket, hostname: {}, port: {}", host, port);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  int failure = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (failure != 0) {
    return base::error(where, what + ": " + ::gai_strerror(failure),
                       "give --host an address of this machine");
  }
  int fd = -1;
  for (addrinfo* address = found; address != nullptr && fd < 0; address = address->ai_next) {
    fd = listen_on(*address, backlog);
  }
  int saved = errno;
  ::freeaddrinfo(found);
  if (fd < 0) {
    return base::sys_error(where, what, saved,
                           saved == EADDRINUSE
                               ? "stop the server that has the port, or choose another (--port 0 finds one)"
                               : "choose another --host or --port");
  }
  return Listener{fd, port_of(fd)};
}

}  // namespace os
