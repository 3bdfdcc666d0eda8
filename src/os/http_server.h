#pragma once
// An HTTP/1.1 server of our own, not cpp-httplib: curing that library (0.11.4) takes overriding its socket
// options, accept loop, connection loop, stream and task queue through interfaces that differ between the
// versions of Debian 12 and Ubuntu 24.04, and what is left is a header parser. Here one thread polls every
// connection that is idle or still sending, so slow and idle clients cost no thread; complete requests go to
// a pool, urgent ones (health checks) to a reserved one. TCP_NODELAY, a real backlog, SO_REUSEADDR only: a
// port in use is an error.

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/base/error.h"
#include "src/os/http_message.h"

namespace os {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

// The answer to one request: either send(), or begin_stream(), write()... and end_stream(). Used by the
// handler's thread alone, and not after the handler has returned.
class HttpReply {
 public:
  HttpReply(int fd, int stop_fd, const HttpIncoming& request, double write_timeout_s,
            const HttpHeaders& always);

  // The whole answer. close: the connection ends with it.
  void send(int status, std::string_view content_type, std::string_view body, const HttpHeaders& headers = {},
            bool close = false);
  // Sends status 200 and the headers; pieces follow, chunked (for HTTP/1.0 until the connection closes).
  bool begin_stream(std::string_view content_type, const HttpHeaders& headers = {});
  // False: the client is gone, has not read for write_timeout_s, or the server stops. Then give up.
  bool write(std::string_view piece);
  // Ends a complete stream. A handler that returns without it cuts the connection, so that the client knows.
  void end_stream();

  bool client_gone() const;  // hung up, seen by polling the socket; costs one system call
  bool started() const { return started_; }
  bool reusable() const { return complete_ && keep_alive_; }

 private:
  bool send_bytes(std::string_view bytes);
  std::string head(int status, std::string_view content_type, const HttpHeaders& headers) const;

  int fd_, stop_fd_;
  double write_timeout_s_;
  const HttpHeaders& always_;
  bool head_only_, http_1_0_;
  bool keep_alive_, started_ = false, complete_ = false, broken_ = false;
};

struct HttpServerOptions {
  std::string host = "127.0.0.1";  // an address or a name
  int port = 0;                    // 0: any free port
  int backlog = 511;
  int n_threads = 8;         // handlers at once
  int n_urgent_threads = 2;  // more of them, for urgent paths alone
  std::function<bool(std::string_view path)> urgent;
  HttpLimits limits;
  int max_connections = 1000;     // more wait in the backlog; idle ones are closed to make room
  double keep_alive_s = 60;       // an idle connection's life
  double request_timeout_s = 60;  // without a byte inside a request
  double write_timeout_s = 60;    // a client that does not read
  HttpHeaders headers;            // on every answer
  // The body (JSON) of the server's own errors: 400, 408, 413, 431, 500, 501, 505.
  std::function<std::string(int status, std::string_view reason)> error_body;
};

class HttpServer {
 public:
  // Called on a pool thread. Exceptions become a 500.
  using Handler = std::function<void(const HttpIncoming&, HttpReply&)>;

  // Binds and listens. Errors: the address is in use, unknown or not allowed.
  static base::Result<std::unique_ptr<HttpServer>> bind(HttpServerOptions options);
  ~HttpServer();  // stop()

  int port() const;         // the real one
  std::string url() const;  // "http://127.0.0.1:8080"
  // Serves from now on, until stop(). Once.
  void start(Handler handler);
  // Closes the listener and every idle connection, wakes blocked writes, waits for running handlers (which
  // must have been told by their owner) and returns. Idempotent; any thread but a handler's.
  void stop();

 private:
  struct State;
  explicit HttpServer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace os
