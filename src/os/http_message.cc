#include "src/os/http_message.h"

#include <algorithm>
#include <cctype>
#include <charconv>

#include "src/base/check.h"

namespace os {
namespace {

constexpr size_t kMaxChunkLine = 4096;

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) {
    text.remove_prefix(1);
  }
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) {
    text.remove_suffix(1);
  }
  return text;
}

bool is_token_char(unsigned char c) {
  return std::isalnum(c) != 0 ||
         std::string_view("!#$%&'*+-.^_`|~").find(static_cast<char>(c)) != std::string_view::npos;
}

bool is_token(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), is_token_char);
}

// Does a comma list such as "keep-alive, Upgrade" hold the word?
bool list_has(std::string_view list, std::string_view word) {
  std::string text = lower(list);
  size_t start = 0;
  while (start <= text.size()) {
    size_t end = std::min(text.find(',', start), text.size());
    if (trim(std::string_view(text).substr(start, end - start)) == word) {
      return true;
    }
    start = end + 1;
  }
  return false;
}

std::string percent_decoded(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned value = 0;
    if (text[i] == '%' && i + 2 < text.size() &&
        std::from_chars(text.data() + i + 1, text.data() + i + 3, value, 16).ptr == text.data() + i + 3) {
      out.push_back(static_cast<char>(value));
      i += 2;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

}  // namespace

const std::string* HttpIncoming::header(std::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (key == name) {
      return &value;
    }
  }
  return nullptr;
}

HttpRequestParser::State HttpRequestParser::feed(std::string_view bytes) {
  if (phase_ != Phase::kBad) {
    buffer_.append(bytes);
  }
  while (phase_ != Phase::kReady && phase_ != Phase::kBad && step()) {
  }
  // What is parsed goes away in big pieces, so that a long body costs linear time.
  if (position_ == buffer_.size() || position_ > (64u << 10)) {
    buffer_.erase(0, position_);
    scanned_ -= std::min(scanned_, position_);
    position_ = 0;
  }
  return phase_ == Phase::kReady ? State::kReady : phase_ == Phase::kBad ? State::kBad : State::kNeedMore;
}

HttpIncoming HttpRequestParser::take() {
  AR_CHECK(phase_ == Phase::kReady, "take() without a complete request");
  phase_ = Phase::kHead;
  scanned_ = position_;
  expect_continue_ = false;
  trailer_bytes_ = 0;
  return std::exchange(request_, {});
}

bool HttpRequestParser::take_expect_continue() {
  return std::exchange(expect_continue_, false);
}

bool HttpRequestParser::fail(int status, std::string reason) {
  phase_ = Phase::kBad;
  bad_status_ = status;
  bad_reason_ = std::move(reason);
  buffer_.clear();
  position_ = scanned_ = 0;
  return true;
}

bool HttpRequestParser::next_line(std::string_view& line, size_t max_bytes) {
  size_t end = buffer_.find('\n', std::max(scanned_, position_));
  if (end == std::string::npos) {
    scanned_ = buffer_.size();
    if (buffer_.size() - position_ > max_bytes) {
      fail(400, "a line of the message is too long");
      line = {};
      return true;
    }
    return false;
  }
  size_t length = end - position_;
  line = std::string_view(buffer_).substr(position_, length);
  if (!line.empty() && line.back() == '\r') {
    line.remove_suffix(1);
  }
  position_ = scanned_ = end + 1;
  return true;
}

bool HttpRequestParser::step() {
  std::string_view line;
  switch (phase_) {
    case Phase::kHead: {
      // Empty lines before a request line are ignored (RFC 9112, 2.2).
      while (position_ < buffer_.size() && (buffer_[position_] == '\r' || buffer_[position_] == '\n')) {
        ++position_;
      }
      std::string_view rest = std::string_view(buffer_).substr(position_);
      size_t from = scanned_ > position_ + 3 ? scanned_ - position_ - 3 : 0;
      size_t crlf = rest.find("\r\n\r\n", from), lf = rest.find("\n\n", from);
      size_t end = std::min(crlf, lf);
      if (std::min(end, rest.size()) > limits_.max_head_bytes) {
        return fail(431, "the request's headers are too large");
      }
      if (end == std::string_view::npos) {
        scanned_ = buffer_.size();
        return false;
      }
      size_t skip = end == crlf ? 4 : 2;
      if (parse_head(rest.substr(0, end))) {
        position_ += end + skip;
        scanned_ = position_;
        choose_body();
      }
      return true;
    }
    case Phase::kLength:
    case Phase::kChunkData: {
      size_t n = std::min(remaining_, buffer_.size() - position_);
      request_.body.append(buffer_, position_, n);
      position_ += n;
      scanned_ = position_;
      remaining_ -= n;
      if (remaining_ > 0) {
        return false;
      }
      phase_ = phase_ == Phase::kLength ? Phase::kReady : Phase::kChunkEnd;
      return true;
    }
    case Phase::kChunkSize:
      return next_line(line, kMaxChunkLine) && (phase_ == Phase::kBad || chunk_size(line));
    case Phase::kChunkEnd:
      if (!next_line(line, 2)) {
        return false;
      }
      if (phase_ != Phase::kBad) {
        if (!line.empty()) {
          return fail(400, "a chunk of the body is longer than its size says");
        }
        phase_ = Phase::kChunkSize;
      }
      return true;
    case Phase::kTrailer:
      if (!next_line(line, kMaxChunkLine)) {
        return false;
      }
      trailer_bytes_ += line.size();
      if (phase_ != Phase::kBad && trailer_bytes_ > limits_.max_head_bytes) {
        return fail(431, "the request's trailers are too large");
      }
      if (phase_ != Phase::kBad && line.empty()) {
        phase_ = Phase::kReady;
      }
      return true;
    case Phase::kReady:
    case Phase::kBad:
      break;
  }
  return false;
}

// False after fail().
bool HttpRequestParser::parse_head(std::string_view head) {
  size_t start = 0;
  bool first = true;
  while (start <= head.size()) {
    size_t end = std::min(head.find('\n', start), head.size());
    std::string_view line = head.substr(start, end - start);
    if (!line.empty() && line.back() == '\r') {
      line.remove_suffix(1);
    }
    if (!(first ? parse_request_line(line) : parse_header_line(line))) {
      return false;
    }
    first = false;
    start = end + 1;
  }
  return true;
}

bool HttpRequestParser::parse_request_line(std::string_view line) {
  size_t a = line.find(' '), b = line.rfind(' ');
  if (a == std::string_view::npos || a == b || !is_token(line.substr(0, a))) {
    return !fail(400, "malformed request line");
  }
  std::string_view version = line.substr(b + 1), target = line.substr(a + 1, b - a - 1);
  if (version != "HTTP/1.1" && version != "HTTP/1.0") {
    return !fail(version.starts_with("HTTP/") ? 505 : 400, "the HTTP version must be 1.0 or 1.1");
  }
  if (target.starts_with("http://") || target.starts_with("https://")) {  // absolute form, as proxies send
    size_t slash = target.find('/', target.find("//") + 2);
    target = slash == std::string_view::npos ? "/" : target.substr(slash);
  }
  bool clean =
      std::none_of(target.begin(), target.end(), [](unsigned char c) { return c <= ' ' || c == 0x7f; });
  if (!clean || !(target.starts_with('/') || target == "*")) {
    return !fail(400, "malformed request target");
  }
  request_.method = line.substr(0, a);
  request_.http_1_0 = version == "HTTP/1.0";
  size_t question = std::min(target.find('?'), target.size());
  request_.path = percent_decoded(target.substr(0, question));
  request_.query = question < target.size() ? target.substr(question + 1) : "";
  return true;
}

bool HttpRequestParser::parse_header_line(std::string_view line) {
  size_t colon = line.find(':');
  if (colon == std::string_view::npos || !is_token(line.substr(0, colon))) {
    return !fail(400, "malformed header line");  // folded lines too: they begin with a space
  }
  std::string_view value = trim(line.substr(colon + 1));
  if (value.find('\r') != std::string_view::npos || value.find('\0') != std::string_view::npos) {
    return !fail(400, "malformed header value");
  }
  if (request_.headers.size() >= limits_.max_headers) {
    return !fail(431, "the request has too many headers");
  }
  request_.headers.emplace_back(lower(line.substr(0, colon)), std::string(value));
  return true;
}

bool HttpRequestParser::choose_body() {
  const std::string *length = nullptr, *encoding = nullptr;
  for (const auto& [name, value] : request_.headers) {
    if (name == "content-length") {
      if (length && *length != value) {
        return fail(400, "two Content-Length headers disagree");
      }
      length = &value;
    } else if (name == "transfer-encoding") {
      if (encoding) {
        return fail(400, "two Transfer-Encoding headers");
      }
      encoding = &value;
    }
  }
  const std::string* connection = request_.header("connection");
  request_.keep_alive = request_.http_1_0 ? connection && list_has(*connection, "keep-alive")
                                          : !(connection && list_has(*connection, "close"));
  const std::string* expect = request_.header("expect");
  expect_continue_ = expect && lower(*expect) == "100-continue" && !request_.http_1_0;
  if (encoding) {
    if (length) {
      return fail(400, "both Content-Length and Transfer-Encoding");
    }
    if (lower(*encoding) != "chunked") {
      return fail(501, "the only Transfer-Encoding understood is chunked");
    }
    phase_ = Phase::kChunkSize;
    return true;
  }
  size_t n = 0;
  if (length) {
    auto [end, failure] = std::from_chars(length->data(), length->data() + length->size(), n);
    if (length->empty() || end != length->data() + length->size() || failure == std::errc::invalid_argument) {
      return fail(400, "malformed Content-Length");
    }
    if (failure == std::errc::result_out_of_range || n > limits_.max_body_bytes) {
      return fail(413,
                  "the request's body is larger than " + std::to_string(limits_.max_body_bytes) + " bytes");
    }
  }
  remaining_ = n;
  phase_ = n > 0 ? Phase::kLength : Phase::kReady;
  expect_continue_ = expect_continue_ && n > 0;
  return true;
}

bool HttpRequestParser::chunk_size(std::string_view line) {
  std::string_view digits = trim(line.substr(0, std::min(line.find(';'), line.size())));
  size_t n = 0;
  auto [end, failure] = std::from_chars(digits.data(), digits.data() + digits.size(), n, 16);
  if (digits.empty() || end != digits.data() + digits.size() || failure == std::errc::invalid_argument) {
    return fail(400, "malformed chunk size");
  }
  if (failure == std::errc::result_out_of_range || n > limits_.max_body_bytes - request_.body.size()) {
    return fail(413,
                "the request's body is larger than " + std::to_string(limits_.max_body_bytes) + " bytes");
  }
  remaining_ = n;
  phase_ = n == 0 ? Phase::kTrailer : Phase::kChunkData;
  return true;
}

std::string_view http_reason(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 404:
      return "Not Found";
    case 408:
      return "Request Timeout";
    case 413:
      return "Content Too Large";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "Unknown";
  }
}

}  // namespace os
