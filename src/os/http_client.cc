#include "src/os/http_client.h"

#include <curl/curl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <mutex>

namespace os {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::pair<HttpFault, const char*> kFaults[] = {
    {HttpFault::kRefused, "connection refused"},
    {HttpFault::kUnreachable, "cannot be reached: "},
    {HttpFault::kTimedOut, "timed out after "},
    {HttpFault::kNoData, "no data for "},
    {HttpFault::kClosed, "the connection was closed before the answer was complete"},
    {HttpFault::kCancelled, "cancelled"},
    {HttpFault::kTooLarge, "answer larger than "},
    {HttpFault::kStatus, "HTTP "},
};

struct Exchange {
  const HttpRequest* request = nullptr;
  CURL* easy = nullptr;
  HttpResponse response;
  size_t received = 0;
  Clock::time_point last_byte;
  bool too_large = false;
};

size_t on_body(char* data, size_t, size_t n, void* user) {
  auto* exchange = static_cast<Exchange*>(user);
  const HttpRequest& request = *exchange->request;
  exchange->last_byte = Clock::now();
  exchange->received += n;
  if (exchange->received > request.max_body_bytes) {
    exchange->too_large = true;
    return 0;
  }
  long status = 0;
  curl_easy_getinfo(exchange->easy, CURLINFO_RESPONSE_CODE, &status);
  if (!request.on_data || status < 200 || status > 299) {
    exchange->response.body.append(data, n);
    return n;
  }
  if (!request.on_data({data, n})) {
    exchange->response.stopped = true;
    return 0;
  }
  return n;
}

size_t on_header(char* data, size_t, size_t n, void* user) {
  auto* exchange = static_cast<Exchange*>(user);
  exchange->last_byte = Clock::now();
  exchange->received += n;  // endless headers count against the limit too
  if (exchange->received > exchange->request->max_body_bytes) {
    exchange->too_large = true;
    return 0;
  }
  std::string_view line(data, n);
  while (!line.empty() && std::isspace(static_cast<unsigned char>(line.back()))) {
    line.remove_suffix(1);
  }
  if (line.starts_with("HTTP/")) {
    exchange->response.headers.clear();  // a 100 Continue may come first
    return n;
  }
  size_t colon = line.find(':');
  if (colon == std::string_view::npos) {
    return n;
  }
  std::string name(line.substr(0, colon));
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
  std::string_view value = line.substr(colon + 1);
  value.remove_prefix(std::min(value.find_first_not_of(" \t"), value.size()));
  exchange->response.headers.emplace_back(std::move(name), value);
  return n;
}

base::Error fault(const HttpRequest& request, HttpFault kind, std::string rest, std::string next) {
  for (const auto& [known, words] : kFaults) {
    if (known == kind) {
      return base::error(request.url, words + rest, std::move(next));
    }
  }
  return base::error(request.url, std::move(rest), std::move(next));
}

base::Error describe(const Exchange& exchange, CURLcode code) {
  const HttpRequest& request = *exchange.request;
  long os_errno = 0;
  curl_easy_getinfo(exchange.easy, CURLINFO_OS_ERRNO, &os_errno);
  if (exchange.too_large) {
    return fault(request, HttpFault::kTooLarge, fmt::format("{} bytes", request.max_body_bytes), "");
  }
  switch (code) {
    case CURLE_COULDNT_CONNECT:
      if (os_errno == ECONNREFUSED) {
        return fault(request, HttpFault::kRefused, "", "is the server running on that port?");
      }
      return fault(request, HttpFault::kUnreachable, std::strerror(static_cast<int>(os_errno)),
                   "check address and port");
    case CURLE_COULDNT_RESOLVE_HOST:
      return fault(request, HttpFault::kUnreachable, curl_easy_strerror(code),
                   "check the address, and that this machine is online");
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
      return fault(request, HttpFault::kUnreachable, curl_easy_strerror(code), "check its certificate");
    case CURLE_OPERATION_TIMEDOUT:
      return fault(request, HttpFault::kTimedOut, fmt::format("{:g} s", request.connect_timeout_s),
                   "no connection was made; check address and port");
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
      return fault(request, HttpFault::kOther, curl_easy_strerror(code), "write it as http://HOST:PORT/...");
    case CURLE_GOT_NOTHING:
    case CURLE_PARTIAL_FILE:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
      return fault(request, HttpFault::kClosed, "", "the server's log may say why");
    default:
      return fault(request, HttpFault::kOther, curl_easy_strerror(code), "");
  }
}

bool global_init() {
  static std::once_flag once;
  static CURLcode code = CURLE_FAILED_INIT;
  std::call_once(once, [] { code = curl_global_init(CURL_GLOBAL_DEFAULT); });
  return code == CURLE_OK;
}

struct Handles {
  std::unique_ptr<CURL, void (*)(CURL*)> easy{curl_easy_init(), curl_easy_cleanup};
  std::unique_ptr<CURLM, void (*)(CURLM*)> multi{curl_multi_init(), [](CURLM* m) { curl_multi_cleanup(m); }};
  curl_slist* headers = nullptr;
  bool added = false;
  ~Handles() {
    if (added) {
      curl_multi_remove_handle(multi.get(), easy.get());
    }
    curl_slist_free_all(headers);
  }
  void add_header(const std::string& line) {
    curl_slist* longer = curl_slist_append(headers, line.c_str());
    AR_CHECK(longer != nullptr, "out of memory for a header");
    headers = longer;
  }
};

void set_options(Handles& handles, Exchange& exchange) {
  const HttpRequest& request = *exchange.request;
  CURL* easy = handles.easy.get();
  curl_easy_setopt(easy, CURLOPT_URL, request.url.c_str());
  curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  if (!request.use_proxy) {
    curl_easy_setopt(easy, CURLOPT_NOPROXY, "*");
  }
  curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L);  // the defaults, which must never change unseen
  curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L);
  curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
  curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, std::lround(request.connect_timeout_s * 1000));
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, &exchange);
  curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
  curl_easy_setopt(easy, CURLOPT_HEADERDATA, &exchange);
  bool has_type = false;
  for (const auto& [name, value] : request.headers) {
    handles.add_header(name + ": " + value);
    has_type |= name.size() == 12 && strcasecmp(name.c_str(), "content-type") == 0;
  }
  if (!request.body.empty() || request.method == "POST") {
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request.body.data());
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request.body.size()));
    if (!has_type) {
      handles.add_header("Content-Type: application/json");
    }
    handles.add_header("Expect:");  // no 100-continue pause before a long prompt
  }
  curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request.method.c_str());
  if (request.method == "HEAD") {
    curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
  }
  curl_easy_setopt(easy, CURLOPT_HTTPHEADER, handles.headers);
}

}  // namespace

HttpFault http_fault(const base::Error& error) {
  for (const auto& [kind, words] : kFaults) {
    if (error.what.starts_with(words)) {
      return kind;
    }
  }
  return HttpFault::kOther;
}

base::Result<HttpResponse> http(const HttpRequest& request) {
  for (const auto& [name, value] : request.headers) {
    if ((name + value).find_first_of("\r\n") != std::string::npos) {
      return base::error(
          request.url, "the header " + name.substr(0, name.find_first_of("\r\n")) + " has a line break in it",
          "check the key or header you set");
    }
  }
  Handles handles;
  if (!global_init() || handles.easy == nullptr || handles.multi == nullptr) {
    return base::error(request.url, "libcurl could not be started", "");
  }
  Exchange exchange;
  exchange.request = &request;
  exchange.easy = handles.easy.get();
  set_options(handles, exchange);
  handles.added = curl_multi_add_handle(handles.multi.get(), handles.easy.get()) == CURLM_OK;
  AR_CHECK(handles.added, "a fresh handle was refused");

  // The multi interface because its waits can be short: libcurl's own progress callback runs once a second
  // when nothing arrives, too coarse for a cancel or a stall.
  Clock::time_point start = Clock::now();
  exchange.last_byte = start;
  auto seconds_since = [](Clock::time_point then) {
    return std::chrono::duration<double>(Clock::now() - then).count();
  };
  for (int running = 1; running > 0;) {
    CURLMcode failed = curl_multi_perform(handles.multi.get(), &running);
    if (failed == CURLM_OK && running > 0) {
      failed = curl_multi_poll(handles.multi.get(), nullptr, 0, 50, nullptr);
    }
    if (failed != CURLM_OK) {
      return fault(request, HttpFault::kOther, curl_multi_strerror(failed), "");
    }
    if (running == 0) {
      break;
    }
    if (request.cancelled != nullptr && request.cancelled->load(std::memory_order_relaxed)) {
      return fault(request, HttpFault::kCancelled, "", "");
    }
    if (request.timeout_s > 0 && seconds_since(start) > request.timeout_s) {
      return fault(request, HttpFault::kTimedOut, fmt::format("{:g} s", request.timeout_s), "");
    }
    if (request.stall_timeout_s > 0 && seconds_since(exchange.last_byte) > request.stall_timeout_s) {
      return fault(request, HttpFault::kNoData, fmt::format("{:g} s", request.stall_timeout_s), "");
    }
  }
  int left = 0;
  CURLcode code = CURLE_RECV_ERROR;
  while (const CURLMsg* message = curl_multi_info_read(handles.multi.get(), &left)) {
    if (message->msg == CURLMSG_DONE) {
      code = message->data.result;
    }
  }
  if (code != CURLE_OK && !exchange.response.stopped) {
    return describe(exchange, code);
  }
  long status = 0;
  curl_easy_getinfo(handles.easy.get(), CURLINFO_RESPONSE_CODE, &status);
  exchange.response.status = static_cast<int>(status);
  return std::move(exchange.response);
}

}  // namespace os
