#pragma once
// HTTP/1.1 requests from bytes: pure, incremental, and the fuzz entry of the server. Strict where a wrong
// guess would let two parties read one message differently (Content-Length against Transfer-Encoding, folded
// lines).

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace os {

struct HttpIncoming {
  std::string method;                                        // "GET", as sent
  std::string path;                                          // percent-decoded, without the query
  std::string query;                                         // raw, without '?'
  std::vector<std::pair<std::string, std::string>> headers;  // names in lower case
  std::string body;                                          // chunks joined
  bool keep_alive = true;
  bool http_1_0 = false;

  // The first header of that (lower case) name, or nullptr.
  const std::string* header(std::string_view name) const;
};

struct HttpLimits {
  size_t max_head_bytes = 64u << 10;
  size_t max_headers = 128;
  size_t max_body_bytes = 64u << 20;  // chunked bodies too
};

// Parses the requests of one connection, one after the other, across arbitrary borders of the input.
class HttpRequestParser {
 public:
  enum class State { kNeedMore, kReady, kBad };

  explicit HttpRequestParser(HttpLimits limits = {}) : limits_(limits) {}

  // Adds bytes and parses as far as one request; what follows it stays for the next. kBad is final.
  State feed(std::string_view bytes);
  // After kReady: the request. The parser is then ready for the next one; call feed("") to look at bytes
  // already here.
  HttpIncoming take();
  // True once per request that waits for "100 Continue" before it sends its body.
  bool take_expect_continue();

  bool idle() const { return phase_ == Phase::kHead && buffer_.size() == position_; }
  int bad_status() const { return bad_status_; }  // 400 413 431 501 505
  const std::string& bad_reason() const { return bad_reason_; }

 private:
  enum class Phase { kHead, kLength, kChunkSize, kChunkData, kChunkEnd, kTrailer, kReady, kBad };

  bool step();  // false: more bytes are needed
  bool parse_head(std::string_view head);
  bool parse_request_line(std::string_view line);
  bool parse_header_line(std::string_view line);
  bool choose_body();
  bool chunk_size(std::string_view line);
  // The next line without its end; false when it is not complete.
  bool next_line(std::string_view& line, size_t max_bytes);
  bool fail(int status, std::string reason);  // always true: the state changed

  HttpLimits limits_;
  Phase phase_ = Phase::kHead;
  std::string buffer_;
  size_t position_ = 0;  // start of what is not parsed yet
  size_t scanned_ = 0;   // no line end before this
  size_t remaining_ = 0;
  size_t trailer_bytes_ = 0;
  bool expect_continue_ = false;
  HttpIncoming request_;
  int bad_status_ = 0;
  std::string bad_reason_;
};

// The reason phrase of the statuses we send.
std::string_view http_reason(int status);

}  // namespace os
