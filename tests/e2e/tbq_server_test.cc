// The real binary on the demo model: processes, sockets, signals.

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <thread>

#include "src/base/json.h"
#include "src/os/http_client.h"

extern char** environ;

using base::Json;

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

void nap_ms(int ms) {
  std::this_thread::sleep_for(std::chrono::milliseconds(ms));
}

std::string demo_model() {
  const char* env = std::getenv("AUTORESEARCH_REFERENCE");
  std::string reference = env ? env : std::string(AR_SOURCE_DIR) + "/../shared/reference";
  for (const std::string& path :
       {std::string(AR_SOURCE_DIR) + "/models/demo-q8_0.gguf", reference + "/demo-model/demo-q8_0.gguf"}) {
    if (std::filesystem::exists(path)) {
      return path;
    }
  }
  return "";
}

std::string binary() {
  return std::string(AR_BIN_DIR) + "/tbq-server";
}

// False, with a message, where there is nothing to test with.
bool available() {
  if (demo_model().empty() || !std::filesystem::exists(binary())) {
    MESSAGE("no demo model or no tbq-server: skipped");
    return false;
  }
  return true;
}

struct TempFile {
  TempFile() : path(std::filesystem::temp_directory_path() / "tbq_server_test.XXXXXX") {
    std::string name = path.string();
    ::close(::mkstemp(name.data()));
    path = name;
  }
  ~TempFile() { std::filesystem::remove(path); }
  TempFile(const TempFile&) = delete;
  TempFile& operator=(const TempFile&) = delete;
  std::string read() const {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  std::filesystem::path path;
};

// A server process of ours, stderr in a file; killed at the end of its scope.
class Process {
 public:
  explicit Process(std::vector<std::string> args) {
    args.insert(args.begin(), binary());
    std::vector<char*> argv;
    for (std::string& arg : args) {
      argv.push_back(arg.data());
    }
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 2, log_.path.c_str(), O_WRONLY | O_TRUNC, 0600);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0600);
    REQUIRE(::posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ) == 0);
    posix_spawn_file_actions_destroy(&actions);
  }
  ~Process() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  // The exit code, 128 + n for a signal; nullopt when it still runs after the time.
  std::optional<int> wait(double seconds) {
    auto begin = Clock::now();
    while (seconds_since(begin) < seconds) {
      int status = 0;
      if (::waitpid(pid_, &status, WNOHANG) == pid_) {
        pid_ = -1;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      }
      nap_ms(2);
    }
    return std::nullopt;
  }
  void signal(int number) const { ::kill(pid_, number); }
  std::string log() const { return log_.read(); }

 private:
  TempFile log_;
  pid_t pid_ = -1;
};

// A running server on a free port.
class TestServer {
 public:
  explicit TestServer(std::vector<std::string> extra = {}) : process_(arguments(std::move(extra))) {
    constexpr std::string_view kMark = "bound to port ";
    for (int i = 0; i < 5000 && port_ == 0; ++i) {
      std::string log = process_.log();
      if (size_t at = log.find(kMark); at != std::string::npos && log.find(',', at) != std::string::npos) {
        port_ = std::stoi(log.substr(at + kMark.size()));
      }
      nap_ms(2);
    }
    REQUIRE(port_ != 0);
  }
  void await_ready() {
    for (int i = 0; i < 2000; ++i) {
      os::HttpRequest request;
      request.url = url("/health");
      auto response = os::http(request);
      if (response && response->status == 200) {
        return;
      }
      nap_ms(10);
    }
    FAIL("the server did not get ready: " << process_.log());
  }
  std::string url(const std::string& path) const {
    return "http://127.0.0.1:" + std::to_string(port_) + path;
  }
  int port() const { return port_; }
  Process& process() { return process_; }

  os::HttpResponse post(const std::string& path, const std::string& body, const std::string& key = "") const {
    os::HttpRequest request;
    request.method = "POST";
    request.url = url(path);
    request.body = body;
    if (!key.empty()) {
      request.headers = {{"Authorization", "Bearer " + key}};
    }
    auto response = os::http(request);
    REQUIRE_MESSAGE(response.ok(), (response.ok() ? "" : response.failure().to_string()));
    return *response;
  }
  Json post_json(const std::string& path, const std::string& body) const {
    auto parsed = base::parse_json(post(path, body).body, path);
    REQUIRE(parsed);
    return *parsed;
  }
  // The data of a stream's events.
  std::vector<std::string> stream(const std::string& path, const std::string& body) const {
    std::vector<std::string> events;
    os::SseParser parser;
    parser.feed(post(path, body).body, [&](std::string_view data) { events.emplace_back(data); });
    return events;
  }

 private:
  static std::vector<std::string> arguments(std::vector<std::string> extra) {
    std::vector<std::string> args = {"-m", demo_model(), "--port", "0", "-c", "2048", "-t", "2"};
    args.insert(args.end(), extra.begin(), extra.end());
    return args;
  }
  Process process_;
  int port_ = 0;
};

// A connection that sends some bytes and stays.
class OpenConnection {
 public:
  OpenConnection(int port, const std::string& bytes) : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    REQUIRE(::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size()));
  }
  ~OpenConnection() { ::close(fd_); }
  OpenConnection(const OpenConnection&) = delete;
  OpenConnection& operator=(const OpenConnection&) = delete;
  // Waits for n bytes of answer (5 s at most).
  void await(size_t n) const {
    char buffer[4096];
    while (n > 0) {
      pollfd fd = {fd_, POLLIN, 0};
      REQUIRE(::poll(&fd, 1, 5000) == 1);
      ssize_t got = ::recv(fd_, buffer, std::min(n, sizeof buffer), 0);
      REQUIRE(got > 0);
      n -= static_cast<size_t>(got);
    }
  }

 private:
  int fd_;
};

std::string raw_post(const std::string& path, const std::string& body) {
  return "POST " + path + " HTTP/1.1\r\nHost: h\r\nContent-Length: " + std::to_string(body.size()) +
         "\r\n\r\n" + body;
}

const char* kAtom =
    R"({"messages":[{"role":"user","content":"What happens when you split an atom?"}],"temperature":0,"max_tokens":60)";

}  // namespace

TEST_CASE("tbq-server answers a chat; a stream says the same") {
  if (!available()) {
    return;
  }
  TestServer server;
  server.await_ready();
  Json answer = server.post_json("/v1/chat/completions", std::string(kAtom) + "}");
  std::string text = answer["choices"][0]["message"]["content"];
  CHECK(text.find("fission") != std::string::npos);
  CHECK(answer["choices"][0]["finish_reason"] == "stop");
  CHECK(answer["usage"]["completion_tokens"] == answer["timings"]["predicted_n"]);

  auto events =
      server.stream("/v1/chat/completions",
                    std::string(kAtom) + R"(,"stream":true,"stream_options":{"include_usage":true}})");
  REQUIRE(events.size() > 4);
  CHECK(events.back() == "[DONE]");
  std::string streamed;
  for (size_t i = 0; i + 2 < events.size(); ++i) {
    Json delta = Json::parse(events[i])["choices"][0]["delta"];
    streamed += base::json_get<std::string>(delta, "content", "");
  }
  CHECK(streamed == text);
  Json usage = Json::parse(events[events.size() - 2]);
  CHECK(usage["usage"]["completion_tokens"] == answer["usage"]["completion_tokens"]);
  // The second request found its prompt in the cache, all but the last token.
  CHECK(usage["timings"]["prompt_n"] == 1);
  CHECK(usage["timings"]["cache_n"] == answer["usage"]["prompt_tokens"].get<int>() - 1);

  std::string log = server.process().log();
  CHECK(log.find("model loaded") <
        log.find("listening on http://127.0.0.1:" + std::to_string(server.port())));
}

TEST_CASE("completion: streams, stop strings, limits, seeds, the context's end") {
  if (!available()) {
    return;
  }
  TestServer server({"-c", "256"});
  server.await_ready();
  std::string prompt =
      R"({"prompt":"<|im_start|>user\nWhat is a mutex?<|im_end|>\n<|im_start|>assistant\n","temperature":0)";
  Json whole = server.post_json("/completion", prompt + R"(,"return_tokens":true})");
  std::string text = whole["content"];
  CHECK(whole["stop_type"] == "eos");
  CHECK(whole["tokens"].size() == whole["tokens_predicted"]);
  std::string streamed;
  auto events = server.stream("/completion", prompt + R"(,"stream":true})");
  for (const std::string& event : events) {
    streamed += Json::parse(event)["content"].get<std::string>();
  }
  CHECK(streamed == text);
  CHECK(Json::parse(events.back())["stop"] == true);

  Json stopped = server.post_json("/completion", prompt + R"(,"stop":["thread"]})");
  CHECK(stopped["stop_type"] == "word");
  CHECK(stopped["stopping_word"] == "thread");
  CHECK(stopped["content"] == text.substr(0, text.find("thread")));
  CHECK(server.post_json("/completion", prompt + R"(,"n_predict":0})")["tokens_predicted"] == 1);

  // The same without the cache, and in batches of another prompt: results do not depend on what came before.
  CHECK(server.post_json("/completion", prompt + R"(,"cache_prompt":false})")["content"] == text);
  std::string warm = R"({"prompt":"The ","n_predict":20,"temperature":1.0,"seed":5,"ignore_eos":true})";
  CHECK(server.post_json("/completion", warm)["content"] == server.post_json("/completion", warm)["content"]);

  Json full =
      server.post_json("/completion", R"({"prompt":"a","ignore_eos":true,"temperature":0,"n_predict":-1})");
  CHECK(full["truncated"] == true);
  CHECK(full["stop_type"] == "limit");
  CHECK(full["tokens_cached"] == 255);
  std::string many = "[1";
  for (int i = 0; i < 255; ++i) {
    many += ",300";
  }
  os::HttpResponse refused = server.post("/completion", R"({"stream":true,"prompt":)" + many + "]}");
  CHECK(refused.status == 400);
  CHECK(Json::parse(refused.body)["error"]["n_prompt_tokens"] == 256);
}

TEST_CASE("tokenize and detokenize are inverse; errors and unknown routes are llama-server's") {
  if (!available()) {
    return;
  }
  TestServer server({"--api-key", "k1,k2"});
  server.await_ready();
  Json tokens = server.post_json("/health", "x");  // 401 before 404, as there
  CHECK(server.post("/tokenize", R"({"content":"x"})").status == 401);
  CHECK(server.post("/tokenize", R"({"content":"x"})", "k3").status == 401);
  tokens = Json::parse(server.post("/tokenize", R"({"content":"Grüße, 世界! <|im_end|>"})", "k2").body);
  CHECK(Json::parse(server.post("/detokenize", base::dump_line(tokens), "k1").body)["content"] ==
        " Grüße, 世界! <|im_end|>");
  CHECK(server.post("/nope", "", "k1").body ==
        R"({"error":{"message":"File Not Found","type":"not_found_error","code":404}})");
  CHECK(server.post("/completion", "{", "k1").status == 500);
  CHECK(server.post("/completion", "{}", "k1").status == 400);
  CHECK(server.process().log().find("k1") == std::string::npos);
}

TEST_CASE("while loading every route answers 503, and SIGTERM ends it at once") {
  if (!available()) {
    return;
  }
  // A model that never finishes loading: a named pipe nobody writes to.
  std::string pipe = std::filesystem::temp_directory_path() / ("tbq_pipe_" + std::to_string(::getpid()));
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  TestServer server({"-m", pipe});
  for (const char* path : {"/health", "/v1/models", "/completion"}) {
    os::HttpResponse loading = server.post(path, "{}");
    CHECK(loading.status == 503);
    CHECK(loading.body == R"({"error":{"message":"Loading model","type":"unavailable_error","code":503}})");
  }
  auto begin = Clock::now();
  server.process().signal(SIGTERM);
  CHECK(server.process().wait(5) == 0);
  CHECK(seconds_since(begin) < 1);
  std::filesystem::remove(pipe);
}

TEST_CASE("SIGTERM ends it within a second: idle keep-alive clients, a running stream, a waiting request") {
  if (!available()) {
    return;
  }
  for (int number : {SIGTERM, SIGINT}) {
    TestServer server({"-np", "1"});
    server.await_ready();
    OpenConnection idle(server.port(), "GET /health HTTP/1.1\r\nHost: h\r\n\r\n"),
        half(server.port(), "POST /completion HT");
    idle.await(50);
    std::string endless = R"({"prompt":"a","ignore_eos":true,"stream":true})";
    OpenConnection running(server.port(), raw_post("/completion", endless));
    running.await(300);
    OpenConnection waiting(server.port(), raw_post("/v1/chat/completions", std::string(kAtom) + "}"));
    nap_ms(50);
    auto begin = Clock::now();
    server.process().signal(number);
    CHECK(server.process().wait(5) == 0);
    CHECK(seconds_since(begin) < 1);
  }
}

TEST_CASE("a client that goes away frees the engine, in the prompt and in a stream") {
  if (!available()) {
    return;
  }
  std::string many = "[1";
  for (int i = 0; i < 3500; ++i) {
    many += ",300";
  }
  for (const char* slots : {"1", "3"}) {
    TestServer server({"-c", "16384", "-ub", "32", "-t", "1", "-kvu", "-np", slots});
    server.await_ready();
    int n_cancelled = 0;
    for (const std::string& body : {R"({"prompt":)" + many + R"(],"ignore_eos":true})",
                                    std::string(R"({"prompt":"a","ignore_eos":true,"stream":true})")}) {
      {
        OpenConnection leaver(server.port(), raw_post("/completion", body));
        nap_ms(100);
      }
      auto begin = Clock::now();
      Json next = server.post_json("/completion", R"({"prompt":"b","n_predict":1,"temperature":0})");
      CHECK(next["tokens_predicted"] == 1);
      CHECK(seconds_since(begin) < 1.5);
      // Not only fast: the engine gave the task up.
      ++n_cancelled;
      int n = 0;
      while (n < n_cancelled && seconds_since(begin) < 5) {
        n = 0;
        std::string log = server.process().log();
        for (size_t at = log.find("cancelled: "); at != std::string::npos;
             at = log.find("cancelled: ", at + 1)) {
          ++n;
        }
      }
      CHECK(n == n_cancelled);
      CHECK(seconds_since(begin) < 1.5);
    }
  }
}

TEST_CASE("what cannot start exits 1 with one clear line") {
  if (!available()) {
    return;
  }
  TestServer holder;
  TempFile cut;
  {
    std::ifstream in(demo_model(), std::ios::binary);
    std::string bytes(100000, '\0');
    in.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    std::ofstream(cut.path, std::ios::binary) << bytes;
  }
  struct Row {
    std::vector<std::string> args;
    std::string line;
  };
  const Row rows[] = {
      {{"-m", demo_model(), "--port", std::to_string(holder.port())},
       "couldn't bind HTTP server socket, hostname: 127.0.0.1"},
      {{"-m", "/no/such.gguf", "--port", "0"}, "/no/such.gguf"},
      {{"-m", cut.path, "--port", "0"}, cut.path},
      {{"-m", binary(), "--port", "0"}, "tbq-server"},
      {{"--foo"}, "error: invalid argument: --foo"},
      {{"-m", demo_model(), "-c", "x"}, "error while handling argument \"-c\""},
      {{"-m", demo_model(), "--draft", "4"}, "the argument has been removed"},
      {{"-m", demo_model(), "-ctk", "q9"}, "Unsupported cache type: q9"},
      {{"-m", demo_model(), "-fa", "off", "-ctv", "tbq3_0"},
       "quantized V cache requires flash_attn to be enabled"},
      {{"-m", demo_model(), "--port", "0", "-c", "1000000000"}, "error: "},
      {{}, "no model was given"},
  };
  for (const Row& row : rows) {
    Process process(row.args);
    CHECK_MESSAGE(process.wait(10) == 1, row.line);
    CHECK_MESSAGE(process.log().find(row.line) != std::string::npos, process.log());
  }
  Process help({"--help"});
  CHECK(help.wait(5) == 0);
  Process version({"--version"});
  CHECK(version.wait(5) == 0);
}
