#pragma once
// HTTP requests by libcurl. Every request has time-outs; nothing here retries.

#include <atomic>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/base/error.h"

namespace os {

struct HttpRequest {
  std::string method = "GET";
  std::string url;
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;  // sent as application/json unless a header says otherwise
  double connect_timeout_s = 5;
  double timeout_s = 60;       // whole exchange
  double stall_timeout_s = 0;  // no byte for this long ends it; 0 = off
  size_t max_body_bytes = 64u << 20;
  bool use_proxy =
      false;  // that the environment names (https_proxy, no_proxy); servers of ours are never behind one
  const std::atomic<bool>* cancelled = nullptr;  // polled; ends the exchange
  // Called with each piece of a 2xx answer's body as it arrives; false ends the exchange (and is no error).
  // Other answers are collected in HttpResponse::body, since they explain themselves there.
  std::function<bool(std::string_view)> on_data;
};

struct HttpResponse {
  int status = 0;
  std::vector<std::pair<std::string, std::string>> headers;  // names in lower case
  std::string body;                                          // empty when on_data took it
  bool stopped = false;                                      // on_data said stop
};

// Errors carry the URL and one of: "connection refused", "cannot be reached: ...", "timed out after N s", "no data for
// N s", "the connection was closed before the answer was complete", "cancelled", "answer larger than ...".
base::Result<HttpResponse> http(const HttpRequest& request);

// Which of these an Error says (by the wording above; a probe's Error keeps it). kStatus: "HTTP 4xx: ...", an
// answer that was no success. kUnreachable: no connection, so that nothing was sent. kOther: something else.
enum class HttpFault {
  kRefused,
  kUnreachable,
  kTimedOut,
  kNoData,
  kClosed,
  kCancelled,
  kTooLarge,
  kStatus,
  kOther
};
HttpFault http_fault(const base::Error& error);

// Splits a text/event-stream body into the data of its events, across arbitrary chunk borders. Pure.
class SseParser {
 public:
  // Calls on_event for each complete event's data. False: an event line exceeded 16 MiB.
  bool feed(std::string_view bytes, const std::function<void(std::string_view)>& on_event);

 private:
  std::string line_, data_;
};

}  // namespace os
