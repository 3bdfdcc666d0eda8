#pragma once
// An HTTP/1.1 server on GNU libmicrohttpd: it does the protocol and polls every connection from one thread,
// so slow and idle clients cost no thread; complete requests are suspended there and go to a pool of ours,
// urgent ones (health checks) to a reserved one. The listening socket is ours: SO_REUSEADDR only (a port in
// use is an error, never shared in silence) and a real backlog.

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/base/error.h"

namespace os {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpIncoming {
  std::string method;   // "GET", as sent
  std::string path;     // percent-decoded, without the query
  std::string query;    // raw, without '?'
  HttpHeaders headers;  // names in lower case
  std::string body;     // chunks joined

  // The first header of that (lower case) name, or nullptr.
  const std::string* header(std::string_view name) const;
};

struct HttpExchange;

// The answer to one request: either send(), or begin_stream(), write()... and end_stream(). Used by the
// handler's thread alone, and not after the handler has returned.
class HttpReply {
 public:
  explicit HttpReply(std::shared_ptr<HttpExchange> exchange);

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

 private:
  std::shared_ptr<HttpExchange> exchange_;
  bool started_ = false;
};

struct HttpLimits {
  size_t max_head_bytes = 64u << 10;
  size_t max_body_bytes = 64u << 20;  // chunked bodies too
  // Of all requests together that are on their way or being answered: a thousand slow uploads must not fill memory.
  // An announced length counts from the headers on; a request that would not fit is answered 503 before its body.
  size_t max_bodies_bytes = 256u << 20;
};

struct HttpServerOptions {
  std::string host = "127.0.0.1";  // an address or a name
  int port = 0;                    // 0: any free port
  int backlog = 511;
  int n_threads = 8;         // handlers at once
  int n_urgent_threads = 2;  // more of them, for urgent paths alone
  std::function<bool(std::string_view path)> urgent;
  HttpLimits limits;
  int max_connections = 1000;  // more wait in the backlog
  double idle_timeout_s =
      60;  // a connection on which nothing moves, between or inside requests; whole seconds
  // A body of which nothing comes for so long, or which has come at less than 64 KiB/s since its headers once so long
  // has passed: the connection is cut, so that few clients cannot hold what all bodies may have. Whole seconds.
  double body_timeout_s = 30;
  double write_timeout_s = 60;  // a client that does not read
  HttpHeaders headers;          // on every answer
  // The body (JSON) of the server's own errors: 413 and 500.
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
  // Serves from now on, until stop(). Once. Errors: no threads or file descriptors left.
  base::Result<void> start(Handler handler);
  // Closes the listener and every connection, wakes blocked writes, waits for running handlers (which must
  // have been told by their owner) and returns. Idempotent; any thread but a handler's.
  void stop();

 private:
  struct State;
  explicit HttpServer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace os
