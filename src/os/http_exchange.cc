#include "src/os/http_exchange.h"

#include <poll.h>

#include <algorithm>
#include <chrono>
#include <cstring>

namespace os {
namespace {

constexpr size_t kMaxBuffered = 256u << 10;  // of a stream the client does not read fast enough
constexpr size_t kReadBlock = 32u << 10;

using ExchangePtr = std::shared_ptr<HttpExchange>;

// libmicrohttpd asks for more of a stream; with nothing there the connection sleeps until write() resumes it.
ssize_t read_stream(void* holder, uint64_t, char* out, size_t size) {
  HttpExchange& exchange = **static_cast<ExchangePtr*>(holder);
  std::lock_guard lock(exchange.mutex);
  if (!exchange.body.empty()) {
    size_t n = std::min(size, exchange.body.size());
    exchange.body.copy(out, n);
    exchange.body.erase(0, n);
    exchange.changed.notify_all();
    return static_cast<ssize_t>(n);
  }
  if (exchange.cut) {
    return MHD_CONTENT_READER_END_WITH_ERROR;
  }
  if (exchange.ended) {
    return MHD_CONTENT_READER_END_OF_STREAM;
  }
  exchange.suspend();
  return 0;
}

void free_stream(void* holder) {
  delete static_cast<ExchangePtr*>(holder);
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

void HttpExchange::set_answer(Answer kind, int status_in, std::string_view content_type,
                              const HttpHeaders& more, std::string_view body_in, bool close) {
  std::lock_guard lock(mutex);
  answer = kind;
  status = status_in;
  headers = more;
  if (!content_type.empty()) {
    headers.emplace_back("Content-Type", content_type);
  }
  if (close) {
    headers.emplace_back("Connection", "close");
  }
  body = body_in;
  resume();
}

bool HttpExchange::write(std::string_view piece) {
  std::unique_lock lock(mutex);
  auto writable = [this] { return body.size() < kMaxBuffered || connection == nullptr || stopping; };
  bool in_time = changed.wait_for(lock, std::chrono::duration<double>(write_timeout_s), writable);
  if (!in_time) {
    cut = true;
  }
  if (connection == nullptr || stopping || cut) {
    return false;
  }
  body += piece;
  resume();
  return true;
}

void HttpExchange::end() {
  std::lock_guard lock(mutex);
  ended = true;
  resume();
}

bool HttpExchange::client_gone() {
  std::lock_guard lock(mutex);
  return peer_gone();
}

bool HttpExchange::peer_gone() const {
  if (connection == nullptr || stopping || cut) {
    return true;
  }
  const MHD_ConnectionInfo* info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
  if (info == nullptr) {
    return true;
  }
  pollfd fd = {info->connect_fd, POLLRDHUP, 0};
  return ::poll(&fd, 1, 0) > 0 && (fd.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) != 0;
}

void HttpExchange::finish(std::string_view content_type, std::string_view fallback_500) {
  if (answer == Answer::kNone && !client_gone()) {
    set_answer(Answer::kWhole, 500, content_type, {}, fallback_500, true);
    return;
  }
  std::lock_guard lock(mutex);
  if (answer == Answer::kNone) {
    answer = Answer::kAborted;
  } else if (answer == Answer::kStream && !ended) {
    cut = true;
  }
  resume();
}

void HttpExchange::suspend() {
  suspended = true;
  MHD_suspend_connection(connection);
}

void HttpExchange::resume() {
  if (suspended && connection != nullptr) {
    suspended = false;
    MHD_resume_connection(connection);
  }
}

MHD_Result HttpExchange::queue_answer() {
  // The answer's kind, status and headers are constant once set. No lock is held here: libmicrohttpd locks
  // the response in MHD_queue_response, and read_stream runs under that lock.
  MHD_Response* response = nullptr;
  if (answer == Answer::kWhole) {
    response = MHD_create_response_from_buffer(body.size(), body.data(), MHD_RESPMEM_MUST_COPY);
  } else if (answer == Answer::kStream) {
    auto holder = std::make_unique<ExchangePtr>(shared_from_this());
    response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, kReadBlock, read_stream, holder.get(),
                                                 free_stream);
    if (response != nullptr) {
      (void)holder.release();  // free_stream's now
    }
  }
  if (response == nullptr) {
    return MHD_NO;
  }
  for (const HttpHeaders* list : {&always, &headers}) {
    for (const auto& [name, value] : *list) {
      MHD_add_response_header(response, name.c_str(), value.c_str());
    }
  }
  MHD_Result queued = MHD_queue_response(connection, static_cast<unsigned>(status), response);
  MHD_destroy_response(response);
  return queued;
}

void HttpExchange::over() {
  std::lock_guard lock(mutex);
  connection = nullptr;
  changed.notify_all();
}

void HttpExchange::stop() {
  std::lock_guard lock(mutex);
  stopping = true;
  changed.notify_all();
}

HttpReply::HttpReply(std::shared_ptr<HttpExchange> exchange) : exchange_(std::move(exchange)) {}

void HttpReply::send(int status, std::string_view content_type, std::string_view body,
                     const HttpHeaders& headers, bool close) {
  AR_CHECK(!started_, "a second answer to one request");
  started_ = true;
  exchange_->set_answer(HttpExchange::Answer::kWhole, status, content_type, headers, body, close);
}

bool HttpReply::begin_stream(std::string_view content_type, const HttpHeaders& headers) {
  AR_CHECK(!started_, "a second answer to one request");
  started_ = true;
  exchange_->set_answer(HttpExchange::Answer::kStream, 200, content_type, headers, "", false);
  return !client_gone();
}

bool HttpReply::write(std::string_view piece) {
  return exchange_->write(piece);
}

void HttpReply::end_stream() {
  exchange_->end();
}

bool HttpReply::client_gone() const {
  return exchange_->client_gone();
}

}  // namespace os
