#pragma once
// One request and its answer on the way between libmicrohttpd's polling thread and a handler's thread.
// Private to http_server.cc and http_exchange.cc.

#include <microhttpd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>

#include "src/os/http_server.h"

namespace os {

struct HttpExchange : std::enable_shared_from_this<HttpExchange> {
  enum class Answer { kNone, kWhole, kStream, kAborted };

  HttpIncoming request;   // complete before a handler sees it, constant afterwards
  size_t body_bytes = 0;  // of the request, received so far; like the next two the polling thread's alone
  size_t held_bytes = 0;  // of what all bodies together may have: what was announced, or has been received
  std::chrono::steady_clock::time_point begin;  // of the body
  double write_timeout_s = 0;
  HttpHeaders always;  // on every answer
  bool begun = false;  // the poller has seen the headers; its own
  std::atomic<bool> dispatched{false};

  std::mutex mutex;                      // everything below
  std::condition_variable changed;       // room in the stream's buffer, or the end
  MHD_Connection* connection = nullptr;  // nullptr once the exchange is over
  bool suspended = false;                // the poller waits for us
  bool stopping = false;
  Answer answer = Answer::kNone;
  int status = 0;
  HttpHeaders headers;
  std::string body;  // the whole answer, or what of the stream waits to be sent
  bool ended = false, cut = false;

  // The handler's side.
  void set_answer(Answer kind, int status_in, std::string_view content_type, const HttpHeaders& more,
                  std::string_view body_in, bool close);
  bool write(std::string_view piece);
  void end();
  bool client_gone();
  // What a handler that returns leaves behind: an unfinished stream is cut, a missing answer becomes the
  // fallback.
  void finish(std::string_view content_type, std::string_view fallback_500);

  // The poller's side; suspend() and resume() want the mutex held.
  void suspend();
  void resume();
  // Hands libmicrohttpd the answer; MHD_NO closes the connection.
  MHD_Result queue_answer();
  void over();
  void stop();

 private:
  bool peer_gone() const;
};

}  // namespace os
