#include "src/os/http_server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <thread>

#include "src/base/log.h"

namespace os {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kDrainSeconds = 2;  // how long an answered but still sending client is listened to

Clock::time_point after(double seconds) {
  return Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() { reset(); }
  int get() const { return fd_; }
  void reset(int fd = -1) {
    if (fd_ >= 0) {
      ::close(fd_);
    }
    fd_ = fd;
  }

 private:
  int fd_;
};

struct Connection {
  Connection(int fd_in, const HttpLimits& limits) : fd(fd_in), parser(limits) {}
  Fd fd;
  HttpRequestParser parser;
  Clock::time_point deadline;
  bool draining = false;  // answered with an error; reading only so that the answer is not lost to a reset
};
using ConnectionPtr = std::unique_ptr<Connection>;

struct Job {
  ConnectionPtr connection;
  HttpIncoming request;
};

// Threads that take jobs from a queue until stopped.
class Pool {
 public:
  void start(int n_threads, std::function<void(Job)> run) {
    for (int i = 0; i < n_threads; ++i) {
      threads_.emplace_back([this, run] {
        while (auto job = next()) {
          run(std::move(*job));
        }
      });
    }
  }
  void add(Job job) {
    std::lock_guard lock(mutex_);
    if (!stopped_) {
      jobs_.push_back(std::move(job));
      ready_.notify_one();
    }
  }
  // Jobs that have not begun are dropped (their connections close).
  void stop() {
    {
      std::lock_guard lock(mutex_);
      stopped_ = true;
      jobs_.clear();
      ready_.notify_all();
    }
    for (std::thread& thread : threads_) {
      thread.join();
    }
    threads_.clear();
  }

 private:
  std::optional<Job> next() {
    std::unique_lock lock(mutex_);
    ready_.wait(lock, [this] { return stopped_ || !jobs_.empty(); });
    if (stopped_) {
      return std::nullopt;
    }
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
    return job;
  }

  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<Job> jobs_;
  std::vector<std::thread> threads_;
  bool stopped_ = false;
};

}  // namespace

// ---- HttpReply ----

HttpReply::HttpReply(int fd, int stop_fd, const HttpIncoming& request, double write_timeout_s,
                     const HttpHeaders& always)
    : fd_(fd),
      stop_fd_(stop_fd),
      write_timeout_s_(write_timeout_s),
      always_(always),
      head_only_(request.method == "HEAD"),
      http_1_0_(request.http_1_0),
      keep_alive_(request.keep_alive) {}

bool HttpReply::send_bytes(std::string_view bytes) {
  Clock::time_point deadline = after(write_timeout_s_);
  while (!broken_ && !bytes.empty()) {
    ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0) {
      bytes.remove_prefix(static_cast<size_t>(n));
      deadline = after(write_timeout_s_);
    } else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
      pollfd fds[2] = {{fd_, POLLOUT, 0}, {stop_fd_, POLLIN, 0}};
      int ready = left > 0 ? ::poll(fds, 2, static_cast<int>(left)) : 0;
      broken_ = (ready == 0) || (ready > 0 && fds[1].revents != 0);
    } else if (n < 0 && errno != EINTR) {
      broken_ = true;
    }
  }
  return !broken_;
}

std::string HttpReply::head(int status, std::string_view content_type, const HttpHeaders& headers) const {
  std::string out = fmt::format("HTTP/1.1 {} {}\r\n", status, http_reason(status));
  for (const HttpHeaders* list : {&always_, &headers}) {
    for (const auto& [name, value] : *list) {
      out += fmt::format("{}: {}\r\n", name, value);
    }
  }
  if (!content_type.empty()) {
    out += fmt::format("Content-Type: {}\r\n", content_type);
  }
  out += keep_alive_ ? "Connection: keep-alive\r\n" : "Connection: close\r\n";
  return out;
}

void HttpReply::send(int status, std::string_view content_type, std::string_view body,
                     const HttpHeaders& headers, bool close) {
  AR_CHECK(!started_, "a second answer to one request");
  started_ = true;
  keep_alive_ = keep_alive_ && !close;
  std::string out =
      head(status, content_type, headers) + fmt::format("Content-Length: {}\r\n\r\n", body.size());
  if (!head_only_) {
    out += body;
  }
  complete_ = send_bytes(out);
}

bool HttpReply::begin_stream(std::string_view content_type, const HttpHeaders& headers) {
  AR_CHECK(!started_, "a second answer to one request");
  started_ = true;
  keep_alive_ = keep_alive_ && !http_1_0_;  // its end is the connection's
  return send_bytes(head(200, content_type, headers) +
                    (http_1_0_ ? "\r\n" : "Transfer-Encoding: chunked\r\n\r\n"));
}

bool HttpReply::write(std::string_view piece) {
  if (piece.empty() || head_only_) {
    return !broken_;
  }
  return send_bytes(http_1_0_ ? std::string(piece) : fmt::format("{:x}\r\n{}\r\n", piece.size(), piece));
}

void HttpReply::end_stream() {
  complete_ = http_1_0_ || head_only_ ? !broken_ : send_bytes("0\r\n\r\n");
}

bool HttpReply::client_gone() const {
  if (broken_) {
    return true;
  }
  pollfd fd = {fd_, POLLRDHUP, 0};
  return ::poll(&fd, 1, 0) > 0 && (fd.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) != 0;
}

// ---- HttpServer ----

struct HttpServer::State {
  HttpServerOptions options;
  Fd listener, wake, stop_event;
  int port = 0;
  Handler handler;
  Pool pool, urgent_pool;
  std::thread poller;
  std::atomic<bool> stopping{false};
  std::atomic<int> n_connections{0};
  std::mutex returned_mutex;
  std::vector<ConnectionPtr> returned;       // from handlers, to wait for the next request
  std::map<int, ConnectionPtr> connections;  // the poller's own

  void poll_loop();
  void accept_all();
  void read_from(ConnectionPtr connection);
  void advance(ConnectionPtr connection, HttpRequestParser::State parsed);
  void refuse(ConnectionPtr connection, int status, std::string_view reason);
  void keep(ConnectionPtr connection);
  void drop(ConnectionPtr connection);
  void expire();
  int poll_timeout_ms() const;
  void serve(Job job);
  void wake_up(const Fd& event) const {
    uint64_t one = 1;
    [[maybe_unused]] ssize_t n = ::write(event.get(), &one, sizeof one);
  }
  std::string error_body(int status, std::string_view reason) const {
    return options.error_body ? options.error_body(status, reason) : std::string(reason);
  }
};

HttpServer::HttpServer(std::unique_ptr<State> state) : state_(std::move(state)) {}

HttpServer::~HttpServer() {
  stop();
}

base::Result<std::unique_ptr<HttpServer>> HttpServer::bind(HttpServerOptions options) {
  std::string where = fmt::format("{}:{}", options.host, options.port);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  int failure = ::getaddrinfo(options.host.c_str(), std::to_string(options.port).c_str(), &hints, &found);
  if (failure != 0) {
    return base::error(where,
                       fmt::format("couldn't bind HTTP server socket, hostname: {}, port: {}: {}",
                                   options.host, options.port, ::gai_strerror(failure)),
                       "give --host an address of this machine");
  }
  auto state = std::make_unique<State>();
  int last_errno = EADDRNOTAVAIL;
  for (addrinfo* a = found; a != nullptr && state->listener.get() < 0; a = a->ai_next) {
    Fd fd(::socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol));
    int on = 1;
    // Only SO_REUSEADDR: SO_REUSEPORT would let a second server share the port in silence.
    if (fd.get() >= 0 && ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
        ::bind(fd.get(), a->ai_addr, a->ai_addrlen) == 0 && ::listen(fd.get(), options.backlog) == 0) {
      state->listener.reset(::dup(fd.get()));
      ::fcntl(state->listener.get(), F_SETFD, FD_CLOEXEC);
    } else {
      last_errno = errno;
    }
  }
  ::freeaddrinfo(found);
  if (state->listener.get() < 0) {
    return base::sys_error(
        where,
        fmt::format("couldn't bind HTTP server socket, hostname: {}, port: {}", options.host, options.port),
        last_errno,
        last_errno == EADDRINUSE ? "stop the server that has the port, or choose another (--port 0 finds one)"
                                 : "choose another --host or --port");
  }
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  ::getsockname(state->listener.get(), reinterpret_cast<sockaddr*>(&address), &size);
  state->port = ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&address)->sin6_port
                                                    : reinterpret_cast<sockaddr_in*>(&address)->sin_port);
  state->wake.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  state->stop_event.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (state->wake.get() < 0 || state->stop_event.get() < 0) {
    return base::sys_error(where, "couldn't create an eventfd", errno,
                           "raise the limit of open files (ulimit -n)");
  }
  state->options = std::move(options);
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(state)));
}

int HttpServer::port() const {
  return state_->port;
}

std::string HttpServer::url() const {
  const std::string& host = state_->options.host;
  bool v6 = host.find(':') != std::string::npos;
  return fmt::format("http://{}{}{}:{}", v6 ? "[" : "", host, v6 ? "]" : "", state_->port);
}

void HttpServer::start(Handler handler) {
  AR_CHECK(!state_->poller.joinable(), "start() twice");
  state_->handler = std::move(handler);
  State* state = state_.get();
  state_->pool.start(state_->options.n_threads, [state](Job job) { state->serve(std::move(job)); });
  state_->urgent_pool.start(state_->options.n_urgent_threads,
                            [state](Job job) { state->serve(std::move(job)); });
  state_->poller = std::thread([state] { state->poll_loop(); });
}

void HttpServer::stop() {
  if (state_->stopping.exchange(true)) {
    return;
  }
  state_->wake_up(state_->stop_event);  // never read: stays readable, so that every blocked write sees it
  state_->wake_up(state_->wake);
  if (state_->poller.joinable()) {
    state_->poller.join();
  }
  state_->listener.reset();
  state_->connections.clear();
  state_->pool.stop();
  state_->urgent_pool.stop();
  state_->returned.clear();
}

void HttpServer::State::poll_loop() {
  std::vector<pollfd> fds;
  while (!stopping) {
    fds.clear();
    bool room = n_connections < options.max_connections;
    fds.push_back({wake.get(), POLLIN, 0});
    fds.push_back({room ? listener.get() : -1, POLLIN, 0});
    for (const auto& [fd, connection] : connections) {
      fds.push_back({fd, POLLIN, 0});
    }
    if (::poll(fds.data(), fds.size(), poll_timeout_ms()) < 0 && errno != EINTR) {
      base::log_error("http: poll: {}", std::strerror(errno));
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      continue;
    }
    if (fds[0].revents != 0) {
      uint64_t count = 0;
      [[maybe_unused]] ssize_t n = ::read(wake.get(), &count, sizeof count);
    }
    std::vector<ConnectionPtr> back;
    {
      std::lock_guard lock(returned_mutex);
      back.swap(returned);
    }
    for (size_t i = 2; i < fds.size(); ++i) {
      if (fds[i].revents != 0) {
        auto found = connections.find(fds[i].fd);
        ConnectionPtr connection = std::move(found->second);
        connections.erase(found);
        read_from(std::move(connection));
      }
    }
    for (ConnectionPtr& connection : back) {
      HttpRequestParser::State parsed =
          connection->parser.feed("");  // a pipelined request may be here already
      advance(std::move(connection), parsed);
    }
    if (room && fds[1].revents != 0) {
      accept_all();
    }
    expire();
  }
}

int HttpServer::State::poll_timeout_ms() const {
  auto next = Clock::now() + std::chrono::seconds(10);
  for (const auto& [fd, connection] : connections) {
    next = std::min(next, connection->deadline);
  }
  auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(next - Clock::now()).count();
  return static_cast<int>(std::max<int64_t>(0, ms) + 1);
}

void HttpServer::State::accept_all() {
  while (n_connections < options.max_connections) {
    int fd = ::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
      if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
        // The listener stays readable: without a pause this would spin.
        base::log_warn("http: accept: {}; raise the limit of open files (ulimit -n)", std::strerror(errno));
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
      }
      return;
    }
    int on = 1;
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    ++n_connections;
    keep(std::make_unique<Connection>(fd, options.limits));
  }
}

void HttpServer::State::read_from(ConnectionPtr connection) {
  char buffer[64 << 10];
  ssize_t n = ::recv(connection->fd.get(), buffer, sizeof buffer, MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
    keep(std::move(connection));
    return;
  }
  if (n <= 0) {
    drop(std::move(connection));
    return;
  }
  if (connection->draining) {
    Clock::time_point deadline = connection->deadline;
    Connection* same = connection.get();
    keep(std::move(connection));
    same->deadline = deadline;
    return;
  }
  HttpRequestParser::State parsed = connection->parser.feed({buffer, static_cast<size_t>(n)});
  advance(std::move(connection), parsed);
}

void HttpServer::State::advance(ConnectionPtr connection, HttpRequestParser::State parsed) {
  switch (parsed) {
    case HttpRequestParser::State::kNeedMore:
      if (connection->parser.take_expect_continue()) {
        static constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
        ::send(connection->fd.get(), kContinue.data(), kContinue.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      }
      keep(std::move(connection));
      return;
    case HttpRequestParser::State::kBad: {
      int status = connection->parser.bad_status();
      std::string reason = connection->parser.bad_reason();
      refuse(std::move(connection), status, reason);
      return;
    }
    case HttpRequestParser::State::kReady: {
      HttpIncoming request = connection->parser.take();
      bool urgent = options.n_urgent_threads > 0 && options.urgent && options.urgent(request.path);
      (urgent ? urgent_pool : pool).add({std::move(connection), std::move(request)});
      return;
    }
  }
}

void HttpServer::State::refuse(ConnectionPtr connection, int status, std::string_view reason) {
  HttpIncoming request;
  request.keep_alive = false;
  HttpReply reply(connection->fd.get(), stop_event.get(), request, 0, options.headers);
  reply.send(status, "application/json; charset=utf-8", error_body(status, reason));
  ::shutdown(connection->fd.get(), SHUT_WR);
  connection->draining = true;
  Connection* same = connection.get();
  keep(std::move(connection));
  same->deadline = after(kDrainSeconds);
}

void HttpServer::State::keep(ConnectionPtr connection) {
  connection->deadline = after(connection->parser.idle() ? options.keep_alive_s : options.request_timeout_s);
  int fd = connection->fd.get();
  connections[fd] = std::move(connection);
}

void HttpServer::State::drop(ConnectionPtr connection) {
  connection.reset();
  --n_connections;
}

void HttpServer::State::expire() {
  Clock::time_point now = Clock::now();
  bool crowded = n_connections >= options.max_connections;
  std::vector<ConnectionPtr> late;
  for (auto it = connections.begin(); it != connections.end();) {
    bool idle = it->second->parser.idle() && !it->second->draining;
    if (it->second->deadline <= now || (crowded && idle)) {
      late.push_back(std::move(it->second));
      it = connections.erase(it);
    } else {
      ++it;
    }
  }
  for (ConnectionPtr& connection : late) {
    if (connection->draining || connection->parser.idle()) {
      drop(std::move(connection));
    } else {
      refuse(std::move(connection), 408, "the request did not arrive in time");
    }
  }
}

void HttpServer::State::serve(Job job) {
  HttpReply reply(job.connection->fd.get(), stop_event.get(), job.request, options.write_timeout_s,
                  options.headers);
  std::string failure = "the handler gave no answer";
  try {
    handler(job.request, reply);
  } catch (const std::exception& e) {
    failure = e.what();
    base::log_error("http: {} {}: {}", job.request.method, job.request.path, failure);
  }
  if (!reply.started()) {
    reply.send(500, "application/json; charset=utf-8", error_body(500, failure), {}, true);
  }
  if (!reply.reusable() || stopping) {
    drop(std::move(job.connection));
    if (n_connections >= options.max_connections - 1) {
      wake_up(wake);  // the listener may be polled again
    }
    return;
  }
  {
    std::lock_guard lock(returned_mutex);
    returned.push_back(std::move(job.connection));
  }
  wake_up(wake);
}

}  // namespace os
