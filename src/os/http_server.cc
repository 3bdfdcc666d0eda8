#include "src/os/http_server.h"

#include <fmt/format.h>
#include <microhttpd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <cstdarg>
#include <cstdio>
#include <deque>
#include <mutex>
#include <set>
#include <system_error>
#include <thread>

#include "src/base/log.h"
#include "src/os/http_exchange.h"
#include "src/os/listen.h"

namespace os {
namespace {

using ExchangePtr = std::shared_ptr<HttpExchange>;

constexpr const char* kJson = "application/json; charset=utf-8";
constexpr double kLeastBodyRate = 64 << 10;                  // bytes per second
constexpr auto kStopGrace = std::chrono::milliseconds(300);  // for finished answers to leave

// Threads that take jobs from a queue until stopped.
class Pool {
 public:
  // The errno of the first thread that could not be had, 0 when all run.
  int start(int n_threads, const std::function<void(const ExchangePtr&)>& run) {
    try {
      for (int i = 0; i < n_threads; ++i) {
        threads_.emplace_back([this, run] {
          while (ExchangePtr job = next()) {
            run(job);
          }
        });
      }
    } catch (const std::system_error& problem) {
      return problem.code().value();
    }
    return 0;
  }
  // False once stopped: nobody would serve it.
  bool add(ExchangePtr job) {
    std::lock_guard lock(mutex_);
    if (stopped_) {
      return false;
    }
    jobs_.push_back(std::move(job));
    ready_.notify_one();
    return true;
  }
  // Ends the threads; returns the jobs that have not begun.
  std::deque<ExchangePtr> stop() {
    {
      std::lock_guard lock(mutex_);
      stopped_ = true;
      ready_.notify_all();
    }
    for (std::thread& thread : threads_) {
      thread.join();
    }
    threads_.clear();
    return std::move(jobs_);
  }

 private:
  ExchangePtr next() {
    std::unique_lock lock(mutex_);
    ready_.wait(lock, [this] { return stopped_ || !jobs_.empty(); });
    if (stopped_) {
      return nullptr;
    }
    ExchangePtr job = std::move(jobs_.front());
    jobs_.pop_front();
    return job;
  }

  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<ExchangePtr> jobs_;
  std::vector<std::thread> threads_;
  bool stopped_ = false;
};

MHD_Result add_header(void* request, MHD_ValueKind, const char* name, const char* value) {
  std::string lower(name);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](char c) { return static_cast<char>(std::tolower(static_cast<unsigned char>(c))); });
  static_cast<HttpIncoming*>(request)->headers.emplace_back(std::move(lower), value != nullptr ? value : "");
  return MHD_YES;
}

// A body's announced length, 0 when none is.
size_t announced_length(const HttpIncoming& request) {
  const std::string* text = request.header("content-length");
  size_t length = 0;
  if (text != nullptr) {
    auto [end, problem] = std::from_chars(text->data(), text->data() + text->size(), length);
    if (problem == std::errc::result_out_of_range) {
      return SIZE_MAX;
    }
  }
  return length;
}

void log_library(void*, const char* format, va_list arguments) {
  std::array<char, 512> text{};
  std::vsnprintf(text.data(), text.size(), format, arguments);
  std::string_view line(text.data());
  while (line.ends_with('\n')) {
    line.remove_suffix(1);
  }
  base::log(base::LogLevel::kDebug, "http: {}", line);
}

}  // namespace

struct HttpServer::State {
  HttpServerOptions options;
  Listener listener;
  Handler handler;
  MHD_Daemon* daemon = nullptr;
  Pool pool, urgent_pool;
  std::mutex mutex;
  std::condition_variable drained;
  std::set<HttpExchange*> live;  // requests between their first byte and their end
  bool stopping = false, stopped = false;
  size_t bodies_bytes = 0;  // held by live requests; the polling thread's alone

  ~State() { close_listener(); }
  void close_listener() {
    if (listener.fd >= 0) {
      ::close(listener.fd);
      listener.fd = -1;
    }
  }
  std::string error_body(int status, std::string_view reason) const {
    return options.error_body ? options.error_body(status, reason) : std::string(reason);
  }
  MHD_Result receive(const ExchangePtr& exchange, const char* path, const char* method, const char* data,
                     size_t* size);
  void set_timeout(MHD_Connection* connection, double timeout_s) const;
  bool body_too_slow(const HttpExchange& exchange) const;
  MHD_Result dispatch(const ExchangePtr& exchange);
  void serve(const ExchangePtr& exchange);

  // libmicrohttpd's callbacks, all on its polling thread. The exchange is owned by a heap pointer it carries
  // for us.
  static void* on_uri(void* self, const char* uri, MHD_Connection* connection);
  static MHD_Result on_request(void* self, MHD_Connection* connection, const char* path, const char* method,
                               const char* version, const char* data, size_t* size, void** holder);
  static void on_over(void* self, MHD_Connection* connection, void** holder, MHD_RequestTerminationCode);
};

void* HttpServer::State::on_uri(void* self, const char* uri, MHD_Connection* connection) {
  auto* state = static_cast<State*>(self);
  auto exchange = std::make_shared<HttpExchange>();
  std::string_view text(uri);
  size_t mark = text.find('?');
  exchange->request.query = mark == std::string_view::npos ? "" : std::string(text.substr(mark + 1));
  exchange->connection = connection;
  exchange->write_timeout_s = state->options.write_timeout_s;
  exchange->always = state->options.headers;
  std::lock_guard lock(state->mutex);
  exchange->stopping = state->stopping;
  state->live.insert(exchange.get());
  return new ExchangePtr(std::move(exchange));
}

MHD_Result HttpServer::State::on_request(void* self, MHD_Connection*, const char* path, const char* method,
                                         const char*, const char* data, size_t* size, void** holder) {
  return static_cast<State*>(self)->receive(*static_cast<ExchangePtr*>(*holder), path, method, data, size);
}

void HttpServer::State::on_over(void* self, MHD_Connection*, void** holder, MHD_RequestTerminationCode) {
  if (*holder == nullptr) {
    return;
  }
  auto* state = static_cast<State*>(self);
  std::unique_ptr<ExchangePtr> owner(static_cast<ExchangePtr*>(*holder));
  *holder = nullptr;
  (*owner)->over();
  state->bodies_bytes -= (*owner)->held_bytes;
  std::lock_guard lock(state->mutex);
  state->live.erase(owner->get());
  state->drained.notify_all();
}

MHD_Result HttpServer::State::receive(const ExchangePtr& exchange, const char* path, const char* method,
                                      const char* data, size_t* size) {
  HttpIncoming& request = exchange->request;
  if (!exchange->begun) {
    exchange->begun = true;
    request.method = method;
    request.path = path;
    MHD_get_connection_values(exchange->connection, MHD_HEADER_KIND, add_header, &request);
    const size_t announced = announced_length(request);
    if (announced > options.limits.max_body_bytes) {
      exchange->set_answer(HttpExchange::Answer::kWhole, 413, kJson, {},
                           error_body(413, "the request body is too large"), true);
      return exchange->queue_answer();
    }
    if (announced + bodies_bytes > options.limits.max_bodies_bytes) {
      exchange->set_answer(HttpExchange::Answer::kWhole, 503, kJson, {},
                           error_body(503, "too many large requests at once; send it again later"), true);
      return exchange->queue_answer();
    }
    exchange->held_bytes = announced;
    bodies_bytes += announced;
    exchange->begin = std::chrono::steady_clock::now();
    set_timeout(exchange->connection, std::min(options.body_timeout_s, options.idle_timeout_s));
    return MHD_YES;
  }
  if (*size > 0) {
    // libmicrohttpd takes no answer here, so the connection just ends. A chunked body has no announced length.
    const size_t total = exchange->body_bytes + *size;
    const size_t more = total > exchange->held_bytes ? total - exchange->held_bytes : 0;
    if (total > options.limits.max_body_bytes || bodies_bytes + more > options.limits.max_bodies_bytes ||
        body_too_slow(*exchange)) {
      return MHD_NO;
    }
    request.body.append(data, *size);
    exchange->body_bytes = total;
    exchange->held_bytes += more;
    bodies_bytes += more;
    *size = 0;
    return MHD_YES;
  }
  if (exchange->dispatched) {
    return exchange->queue_answer();  // resumed: the handler has answered
  }
  return dispatch(exchange);
}

void HttpServer::State::set_timeout(MHD_Connection* connection, double timeout_s) const {
  MHD_set_connection_option(connection, MHD_CONNECTION_OPTION_TIMEOUT,
                            static_cast<unsigned>(std::max(1.0, timeout_s)));
}

// Only asked when some of it comes; of silence libmicrohttpd's own timeout takes care.
bool HttpServer::State::body_too_slow(const HttpExchange& exchange) const {
  const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - exchange.begin;
  return passed.count() > options.body_timeout_s + static_cast<double>(exchange.body_bytes) / kLeastBodyRate;
}

MHD_Result HttpServer::State::dispatch(const ExchangePtr& exchange) {
  set_timeout(exchange->connection, options.idle_timeout_s);
  bool urgent = options.n_urgent_threads > 0 && options.urgent && options.urgent(exchange->request.path);
  // The handler's first answer waits for this lock, so it finds the connection suspended.
  std::lock_guard lock(exchange->mutex);
  if (!(urgent ? urgent_pool : pool).add(exchange)) {
    return MHD_NO;  // stop() has begun: a connection suspended now would never be resumed
  }
  exchange->dispatched = true;
  exchange->suspend();
  return MHD_YES;
}

void HttpServer::State::serve(const ExchangePtr& exchange) {
  HttpReply reply(exchange);
  std::string failure = "the handler gave no answer";
  try {
    handler(exchange->request, reply);
  } catch (const std::exception& e) {
    failure = e.what();
    base::log_error("http: {} {}: {}", exchange->request.method, exchange->request.path, failure);
  }
  exchange->finish(kJson, error_body(500, failure));
}

HttpServer::HttpServer(std::unique_ptr<State> state) : state_(std::move(state)) {}

HttpServer::~HttpServer() {
  stop();
}

base::Result<std::unique_ptr<HttpServer>> HttpServer::bind(HttpServerOptions options) {
  auto listener = listen_tcp(options.host, options.port, options.backlog);
  if (!listener) {
    return listener.failure();
  }
  auto state = std::make_unique<State>();
  state->listener = *listener;
  state->options = std::move(options);
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(state)));
}

int HttpServer::port() const {
  return state_->listener.port;
}

std::string HttpServer::url() const {
  const std::string& host = state_->options.host;
  bool v6 = host.find(':') != std::string::npos;
  return fmt::format("http://{}{}{}:{}", v6 ? "[" : "", host, v6 ? "]" : "", port());
}

base::Result<void> HttpServer::start(Handler handler) {
  AR_CHECK(state_->daemon == nullptr, "start() twice");
  State* state = state_.get();
  state->handler = std::move(handler);
  const HttpServerOptions& options = state->options;
  auto serve = [state](const ExchangePtr& exchange) { state->serve(exchange); };
  int problem = state->pool.start(options.n_threads, serve);
  if (problem == 0) {
    problem = state->urgent_pool.start(options.n_urgent_threads, serve);
  }
  if (problem != 0) {
    stop();
    return base::sys_error(
        url(), fmt::format("couldn't start {} HTTP threads", options.n_threads + options.n_urgent_threads),
        problem, "ask for fewer (--threads-http), or raise the limit of processes (ulimit -u)");
  }
  state->daemon = MHD_start_daemon(
      MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_ITC | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, nullptr,
      nullptr, &State::on_request, state, MHD_OPTION_EXTERNAL_LOGGER, log_library, nullptr,
      MHD_OPTION_LISTEN_SOCKET, state->listener.fd, MHD_OPTION_CONNECTION_LIMIT,
      static_cast<unsigned>(options.max_connections), MHD_OPTION_CONNECTION_MEMORY_LIMIT,
      options.limits.max_head_bytes, MHD_OPTION_CONNECTION_TIMEOUT,
      static_cast<unsigned>(std::max(1.0, options.idle_timeout_s)), MHD_OPTION_STRICT_FOR_CLIENT, 1,
      MHD_OPTION_URI_LOG_CALLBACK, &State::on_uri, state, MHD_OPTION_NOTIFY_COMPLETED, &State::on_over, state,
      MHD_OPTION_END);
  if (state->daemon == nullptr) {
    return base::sys_error(url(), "couldn't start the HTTP server", errno,
                           "raise the limits of processes and open files (ulimit -u, ulimit -n)");
  }
  return {};
}

void HttpServer::stop() {
  State* state = state_.get();
  {
    std::lock_guard lock(state->mutex);
    if (state->stopped) {
      return;
    }
    state->stopped = state->stopping = true;
    for (HttpExchange* exchange : state->live) {
      exchange->stop();
    }
  }
  if (state->daemon != nullptr) {
    MHD_quiesce_daemon(state->daemon);  // no new connections; the listening socket is ours again
  }
  state->close_listener();
  for (Pool* pool : {&state->pool, &state->urgent_pool}) {
    for (const ExchangePtr& unserved : pool->stop()) {
      unserved->finish(kJson, "");
    }
  }
  if (state->daemon != nullptr) {
    {
      std::unique_lock lock(state->mutex);
      auto all_dispatched_over = [state] {
        return std::none_of(state->live.begin(), state->live.end(),
                            [](HttpExchange* e) { return e->dispatched.load(); });
      };
      state->drained.wait_for(lock, kStopGrace, all_dispatched_over);
    }
    MHD_stop_daemon(state->daemon);
    state->daemon = nullptr;
  }
}

}  // namespace os
