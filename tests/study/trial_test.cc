// Trials on the scripted server: real processes, kept and changed in place, or launched afresh.
#include "src/study/trial.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <iterator>
#include <thread>

#include "src/os/child.h"
#include "src/os/files.h"
#include "src/os/http_client.h"
#include "src/os/proc.h"
#include "src/study/in_place.h"
#include "src/study/instance.h"
#include "src/study/interrupt.h"
#include "tests/os/scratch.h"

namespace {

// This program is its own guard (LaunchSpec::guard_program), and doctest's main() does not know that command.
const bool kNotTheGuard = [] {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::string line((std::istreambuf_iterator<char>(file)), {});
  size_t end = line.find('\0');
  std::string command = os::kGuardCommand;
  if (end != std::string::npos && line.substr(end + 1) == command + '\0') {
    char* argv[] = {line.data(), command.data(), nullptr};
    ::_exit(os::guard_main(2, argv));
  }
  return true;
}();

using study::Status;

search::Axis axis(const char* name, std::vector<search::Value> values) {
  search::Axis out;
  out.name = name;
  out.values = std::move(values);
  return out;
}

// A study without probes: what a trial does around them.
struct Bench {
  Scratch scratch;
  study::Study study;
  study::ServerProgram program;
  std::unique_ptr<study::ServerTrialRunner> made;
  int trials = 0;

  explicit Bench(const std::string& rules = "[]", const std::string& more = "") {
    study.name = "t";
    study.model = scratch / "model.gguf";
    std::ofstream(study.model) << "GGUF";
    study.space.axes = {axis("n_threads", {int64_t{1}, int64_t{2}, int64_t{3}}),
                        axis("ctx_size", {int64_t{1024}, int64_t{8192}}), axis("mmap", {true, false})};
    study.backend.kind = study::BackendKind::kTbqServer;
    study.backend.load_timeout_s = 60;
    study.backend.stop_grace_s = 5;
    study.backend.env["FAKE_SERVER_SCENARIO"] =
        R"({"reconfigure": ["n_threads", "ctx_size"], "numerics": true, "rules": )" + rules + more + "}";
    study.probes.speed = study.probes.quality = study.probes.needle = false;
    study.probes.request_timeout_s = 30;
    study.probes.min_headroom_gib = 0;
    program.kind = study.backend.kind;
    program.path = std::string(AR_BIN_DIR) + "/fake-server";
  }
  study::ServerTrialRunner& runner() {
    if (made == nullptr) {
      made =
          std::make_unique<study::ServerTrialRunner>(study, program, scratch / ".", [](std::string_view) {});
    }
    return *made;
  }
  study::TrialRecord run(int threads, int ctx = 1024, bool mmap = true, bool cold = false,
                         const study::TrialContext& context = {}) {
    study::TrialRequest request;
    request.trial_id = ++trials;
    request.proposal.config = {int64_t{threads}, int64_t{ctx}, mmap};
    request.cold = cold;
    auto plan = runner().plan(request);
    REQUIRE(plan.ok());
    study::TrialRecord record = runner().run(request, *plan, context);
    INFO(record.reason);
    CHECK_EQ(record.cold, !record.t_reconfigure_s.has_value());
    return record;
  }
  std::vector<pid_t> servers() const {
    std::vector<pid_t> found;
    for (pid_t pid : os::descendants(::getpid())) {
      auto line = os::read_file("/proc/" + std::to_string(pid) + "/cmdline");
      if (line.ok() && line->starts_with(program.path)) {
        found.push_back(pid);
      }
    }
    return found;
  }
};

int64_t threads_of(const study::TrialRecord& record) {
  return base::json_get<int64_t>(record.effective.value("tbq", base::Json()), "n_threads", 0);
}

bool dies_soon(pid_t pid) {
  for (int i = 0; i < 1000; ++i) {
    if (::kill(pid, 0) != 0) {
      return true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

// GET /props of a server, asked by somebody else.
int64_t threads_told(const std::string& url) {
  os::HttpRequest ask;
  ask.url = url + "/props";
  auto answer = os::http(ask);
  REQUIRE(answer.ok());
  auto props = base::parse_json(answer->body, "props");
  REQUIRE(props.ok());
  return base::json_get<int64_t>(props->value("tbq", base::Json()), "n_threads", 0);
}

// Makes `guest` a study of the server that `host` keeps running.
void visit(Bench& guest, Bench& host) {
  REQUIRE_EQ(host.servers().size(), 1);
  auto cmdline = os::read_file("/proc/" + std::to_string(host.servers()[0]) + "/cmdline");
  REQUIRE(cmdline.ok());
  const std::string& line = *cmdline;
  const size_t port = line.find(std::string("--port\0", 7));
  REQUIRE_NE(port, std::string::npos);
  guest.study.model.clear();
  guest.study.space.axes.pop_back();
  guest.study.backend.kind = guest.program.kind = study::BackendKind::kUrl;
  guest.program.path = std::string("http://127.0.0.1:") + (line.c_str() + port + 7);
}

}  // namespace

TEST_CASE("a stranger on the port is never told the API key") {
  REQUIRE(kNotTheGuard);
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  REQUIRE(::bind(listener, reinterpret_cast<sockaddr*>(&address), length) == 0);
  REQUIRE(::listen(listener, 8) == 0);
  REQUIRE(::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length) == 0);
  std::string heard;
  std::thread stranger([&] {  // says ok to everybody, and listens well
    for (int client = ::accept(listener, nullptr, nullptr); client >= 0;
         client = ::accept(listener, nullptr, nullptr)) {
      char buffer[4096];
      const ssize_t n = ::read(client, buffer, sizeof buffer);
      heard.append(buffer, static_cast<size_t>(std::max<ssize_t>(0, n)));
      const std::string answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
      CHECK(::write(client, answer.data(), answer.size()) > 0);
      ::close(client);
    }
  });
  Scratch scratch;
  study::LaunchPlan plan;
  plan.argv = {"/bin/sleep", "60"};
  plan.port = ntohs(address.sin_port);
  plan.url = "http://127.0.0.1:" + std::to_string(plan.port);
  plan.ready_path = "/health";
  study::LaunchOptions options;
  options.log_path = scratch / "log";
  options.api_key = "very-secret";
  study::Launched launched = study::launch_until_ready(plan, options);
  launched.child.reset();
  ::shutdown(listener, SHUT_RDWR);
  stranger.join();
  ::close(listener);
  CHECK(launched.port_taken);
  CHECK(heard.find("GET /health") != std::string::npos);
  CHECK(heard.find("very-secret") == std::string::npos);
}

TEST_CASE("a server that offers it is changed in place for the next trial") {
  REQUIRE(kNotTheGuard);
  Bench bench;
  auto first = bench.run(1);
  REQUIRE_EQ(first.status, Status::kOk);
  CHECK(first.cold);
  CHECK(first.t_load_s.has_value());
  CHECK_EQ(threads_of(first), 1);
  CHECK_EQ(first.numerics_key.size(), 16);
  auto kept = bench.servers();
  REQUIRE_EQ(kept.size(), 1);

  auto second = bench.run(2, 8192);
  REQUIRE_EQ(second.status, Status::kOk);
  CHECK_FALSE(second.cold);
  CHECK_FALSE(second.t_load_s.has_value());
  CHECK(second.t_warmup_s.has_value());
  CHECK_EQ(threads_of(second), 2);
  CHECK_EQ(base::json_get<int64_t>(second.effective, "n_ctx", 0), 8192);
  CHECK_NE(second.argv, first.argv);  // what would launch this one
  CHECK_EQ(second.log_path, first.log_path);
  CHECK_EQ(second.metrics.values.at("load_s"), *first.t_load_s);
  CHECK_EQ(second.numerics_key, first.numerics_key);
  CHECK(second.memory.is_object());
  CHECK_EQ(bench.servers(), kept);

  // Back, and once more the same: a repeat is opened anew in place too.
  CHECK_EQ(threads_of(bench.run(1)), 1);
  CHECK_FALSE(bench.run(1).cold);
  CHECK_EQ(bench.servers(), kept);

  auto unmapped = bench.run(1, 1024, false);  // mmap needs a fresh process
  CHECK(unmapped.cold);
  CHECK_EQ(unmapped.status, Status::kOk);
  CHECK_NE(unmapped.log_path, first.log_path);
  auto other = bench.servers();
  REQUIRE_EQ(other.size(), 1);
  CHECK_NE(other, kept);

  CHECK(bench.run(2, 1024, false, true).cold);  // asked for a fresh one
  bench.runner().release();
  CHECK(bench.servers().empty());
  CHECK(bench.run(2, 1024, false).cold);
}

TEST_CASE("in_place answers for what the running server offers") {
  Bench bench;
  search::Config one = {int64_t{1}, int64_t{1024}, true}, two = {int64_t{2}, int64_t{1024}, true},
                 unmapped = {int64_t{1}, int64_t{1024}, false};
  CHECK_FALSE(bench.runner().in_place(one, two));  // nothing is known before the first
  REQUIRE_EQ(bench.run(1).status, Status::kOk);
  CHECK(bench.runner().in_place(one, two));
  CHECK(bench.runner().in_place(one, one));
  CHECK_FALSE(bench.runner().in_place(one, unmapped));
  bench.runner().release();

  Bench never;
  never.study.backend.reuse = study::Reuse::kNever;
  REQUIRE_EQ(never.run(1).status, Status::kOk);
  CHECK(never.servers().empty());
  CHECK_FALSE(never.runner().in_place(one, two));
  CHECK(never.run(2).cold);
}

TEST_CASE("a server that refuses, fails, dies or falls silent is launched afresh, and only that counts") {
  for (const char* how : {"refuse", "fail", "die", "hang"}) {
    CAPTURE(how);
    Bench bench(std::string(R"([{"when": {"threads": "2"}, "set": {"reconfigure_behaviour": ")") + how +
                R"("}}])");
    bench.study.probes.request_timeout_s = std::string(how) == "hang" ? 2 : 30;
    REQUIRE_EQ(bench.run(1).status, Status::kOk);
    auto first = bench.servers();
    auto record = bench.run(2);
    CHECK_EQ(record.status, Status::kOk);
    CHECK(record.cold);
    CHECK(record.t_load_s.has_value());
    CHECK_EQ(threads_of(record), 2);
    auto second = bench.servers();
    CHECK_EQ(second.size(), 1);
    CHECK_NE(second, first);
    CHECK_FALSE(bench.run(3).cold);  // and that one serves on
  }
}

TEST_CASE("a configuration that does not fit is refused in place and fails by itself") {
  Bench bench(R"([{"when": {"ctx_size": "8192"}, "set": {"behaviour": "oom"}}])");
  REQUIRE_EQ(bench.run(1).status, Status::kOk);
  auto record = bench.run(1, 8192);
  CHECK_EQ(record.status, Status::kOom);
  CHECK(record.cold);
  CHECK_FALSE(record.log_tail.empty());
  CHECK(bench.servers().empty());
  CHECK(bench.run(1).cold);
}

TEST_CASE("what the server says after a change is compared with what was asked") {
  Bench bench(R"([{"when": {"threads": "2"}, "set": {"n_ctx": 512}}])");
  REQUIRE_EQ(bench.run(1).status, Status::kOk);
  auto record = bench.run(2);
  CHECK_EQ(record.status, Status::kConfigMismatch);
  CHECK(record.cold);
  CHECK(bench.servers().empty());
}

TEST_CASE("what another trial measured of the same numbers is cited, not measured again") {
  Bench bench;
  auto first = bench.run(1);
  REQUIRE_EQ(first.status, Status::kOk);
  REQUIRE_FALSE(first.numerics_key.empty());
  study::NumericsResult result;
  result.trial_id = 41;
  result.quality = {{"score", 0.25}};  // no server of ours would score that
  result.values = {{"quality", 0.25}};
  result.quality_items = {{"capital", false}};
  std::map<std::string, study::NumericsResult> known = {{first.numerics_key, result}};
  study::TrialContext context;
  context.known = &known;
  bench.study.probes.quality = true;
  probes::QualityItem item;
  item.id = "capital";
  item.prompt = "What is the capital of France?";
  item.any_of = {"no server answers this"};
  bench.study.probes.quality_items = {item};

  auto cited = bench.run(2, 8192, true, false, context);
  REQUIRE_EQ(cited.status, Status::kOk);
  CHECK_EQ(cited.cited_trial_id, 41);
  CHECK_EQ(cited.quality, result.quality);
  CHECK_EQ(cited.metrics.values.at("quality"), 0.25);
  CHECK_EQ(cited.metrics.quality_items, result.quality_items);

  known = {{"0123456789abcdef", result}};
  auto measured = bench.run(1, 8192, true, false, context);
  REQUIRE_EQ(measured.status, Status::kOk);
  CHECK_EQ(measured.cited_trial_id, 0);
  CHECK_NE(measured.quality, result.quality);
}

TEST_CASE("two builds that call themselves the same do not share what depends on the numbers") {
  Bench bench;
  study::ServerProgram other = bench.program;
  other.name = "other";
  other.path = bench.scratch / "other-server";
  std::filesystem::copy_file(bench.program.path, other.path);
  bench.program.name = "first";
  bench.program.others = {other};
  bench.study.space.axes.push_back(axis("binary", {std::string("first"), std::string("other")}));
  auto key = [&](const char* binary) {
    study::TrialRequest request;
    request.trial_id = ++bench.trials;
    request.proposal.config = {int64_t{1}, int64_t{1024}, true, std::string(binary)};
    auto plan = bench.runner().plan(request);
    REQUIRE(plan.ok());
    auto record = bench.runner().run(request, *plan, {});
    INFO(record.reason);
    CHECK_EQ(record.status, Status::kOk);
    CHECK_FALSE(record.numerics_key.empty());
    return record.numerics_key;
  };
  const std::string first = key("first");
  CHECK(key("other") != first);
  CHECK_EQ(key("first"), first);
}

TEST_CASE("a server that was killed between two trials is replaced, and one that fails a probe is dropped") {
  Bench bench(
      R"([{"when": {"threads": "3"}, "set": {"behaviour": "crash-mid-probe", "after_requests": 1}}])");
  REQUIRE_EQ(bench.run(1).status, Status::kOk);
  auto first = bench.servers();
  REQUIRE_EQ(first.size(), 1);
  ::kill(first[0], SIGKILL);
  auto record = bench.run(2);
  CHECK_EQ(record.status, Status::kOk);
  CHECK(record.cold);

  bench.study.probes.speed = true;
  bench.study.probes.speed_options.n_prompt = 32;
  bench.study.probes.speed_options.n_gen = 8;
  CHECK_EQ(bench.run(3).status, Status::kRunCrash);
  CHECK(bench.servers().empty());
}

TEST_CASE("each trial on a kept server has a memory trace of its own") {
  Bench bench(R"([{"when": {"ctx_size": "8192"}, "set": {"allocate_mib": 256}}])");
  auto large = bench.run(1, 8192), small = bench.run(1, 1024);
  REQUIRE_EQ(large.status, Status::kOk);
  REQUIRE_EQ(small.status, Status::kOk);
  CHECK_FALSE(small.cold);
  CHECK(large.metrics.values.at("rss_gib") > 0.25);
  CHECK(small.metrics.values.at("rss_gib") < 0.2);
}

TEST_CASE("the user's stop ends a kept server too") {
  Bench bench;
  REQUIRE_EQ(bench.run(1).status, Status::kOk);
  REQUIRE_EQ(bench.servers().size(), 1);
  study::set_interrupted(SIGINT);
  auto record = bench.run(2);
  study::set_interrupted(0);
  CHECK_EQ(record.status, Status::kInterrupted);
  CHECK(bench.servers().empty());
}

TEST_CASE("the user's stop while a foreign server is waited for loses no server") {
  Bench bench;
  bench.study.backend.kind = bench.program.kind = study::BackendKind::kUrl;
  bench.program.path = "http://127.0.0.1:1";  // nobody there
  std::thread user([] {
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    study::set_interrupted(SIGINT);
  });
  study::TrialRecord record = bench.run(1);
  user.join();
  study::set_interrupted(0);
  CHECK(record.status == Status::kInterrupted);
  CHECK_EQ(record.server_lost, "");

  bench.study.backend.load_timeout_s = 1;
  CHECK_NE(bench.run(1).server_lost, "");  // without a stop it is lost
}

TEST_CASE("a foreign server that cannot be measured lives on, and gets back what it had") {
  Bench host;
  host.run(1);
  Bench guest;
  visit(guest, host);
  guest.study.probes.perplexity = true;  // it gives no log-probabilities
  guest.study.probes.prompt_losses.text = std::string(40000, 'a');
  guest.study.objective.maximize = {*search::Expression::parse("0 - ppl")};
  study::TrialRequest request;
  request.trial_id = 1;
  request.proposal.config = {int64_t{3}, int64_t{1024}};
  auto plan = guest.runner().plan(request);
  REQUIRE(plan.ok());
  study::TrialRecord record = guest.runner().run(request, *plan, {});
  CAPTURE(record.reason);
  CHECK_NE(record.server_lost, "");
  auto threads = [&] { return threads_told(guest.program.path); };
  CHECK_EQ(threads(), 3);
  guest.made.reset();
  CHECK_EQ(threads(), 1);
}

TEST_CASE("a foreign server that was started anew with other flags is not the study's any more") {
  Bench host;
  host.run(1);
  Bench guest;
  visit(guest, host);
  auto run = [&](const char* settings, int64_t threads) {
    guest.program.settings = *base::parse_json(settings, "settings");
    study::TrialRequest request;
    request.trial_id = 1;
    request.proposal.config = {threads, int64_t{1024}};
    auto plan = guest.runner().plan(request);
    REQUIRE(plan.ok());
    return guest.runner().run(request, *plan, {});
  };
  CHECK_EQ(run(R"({"tbq": {"cache_type_k": "f16", "n_threads": 7}})", 3).server_lost, "");  // an axis
  // Kept from the trial before, and reached anew.
  for (int i = 0; i < 2; ++i) {
    study::TrialRecord record = run(R"({"tbq": {"cache_type_k": "q8_0"}})", 2);
    CAPTURE(record.reason);
    CHECK_NE(record.server_lost.find("cache_type_k q8_0, now f16"), std::string::npos);
    CHECK_FALSE(record.lost_in_trial);
    CHECK_FALSE(record.t_measure_s.has_value());
    CHECK_EQ(threads_told(guest.program.path), 3);  // left as it was found
  }
}

TEST_CASE("a kept server dies with its driver") {
  Bench bench;
  int pipe_ends[2];
  REQUIRE_EQ(::pipe(pipe_ends), 0);
  pid_t driver = ::fork();
  if (driver == 0) {
    auto record = bench.run(1);
    auto servers = bench.servers();
    pid_t server = record.status == Status::kOk && servers.size() == 1 ? servers[0] : 0;
    [[maybe_unused]] ssize_t n = ::write(pipe_ends[1], &server, sizeof server);
    for (;;) {
      ::pause();
    }
  }
  pid_t server = 0;
  ::close(pipe_ends[1]);
  CHECK_EQ(::read(pipe_ends[0], &server, sizeof server), static_cast<ssize_t>(sizeof server));
  ::close(pipe_ends[0]);
  bool lived = server > 0 && ::kill(server, 0) == 0;
  ::kill(driver, SIGKILL);
  ::waitpid(driver, nullptr, 0);
  REQUIRE(lived);
  CHECK(dies_soon(server));
}
