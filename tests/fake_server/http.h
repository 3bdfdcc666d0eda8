#pragma once
// Just enough HTTP/1.1 for a server that must be able to misbehave: one thread per connection, one request
// each.

#include <functional>
#include <string>
#include <string_view>

#include "src/base/error.h"

namespace fake {

struct Request {
  std::string method, path, body;
};

class Connection {
 public:
  explicit Connection(int fd) : fd_(fd) {}
  bool read(Request& request);  // false: no whole request came
  void reply(int status, std::string_view body, std::string_view type = "application/json; charset=utf-8");
  void start_stream();
  bool event(std::string_view data);  // false: the client has gone
  void end_stream();

 private:
  bool send(std::string_view bytes);
  int fd_;
};

// Binds host:port (0 = any) without SO_REUSEPORT; the listening descriptor, and the port in `port`.
base::Result<int> listen_on(const std::string& host, int& port);
// Accepts for ever, a thread for each connection.
[[noreturn]] void serve(int listener, const std::function<void(Connection&)>& handle);

}  // namespace fake
