#include "src/engine/reconfigure.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>

#include "src/engine/generation.h"
#include "tests/engine/fixtures.h"
#include "tests/engine/server_rig.h"
#include "tests/os/scratch.h"

using base::Json;
using engine::Reconfigured;
using fixtures::HttpRig;

namespace {

const std::string kDemo = fixtures::demo_model();

engine::ContextOptions options(int n_ctx, const char* k, const char* v, int n_ubatch = 64,
                               int n_threads = 1) {
  engine::ContextOptions chosen;
  chosen.n_ctx = n_ctx;
  chosen.n_ubatch = n_ubatch;
  chosen.n_threads = n_threads;
  chosen.cache_type_k = k;
  chosen.cache_type_v = v;
  return chosen;
}

bool never() {
  return false;
}

uint64_t resident_bytes() {
  uint64_t pages = 0, resident = 0;
  std::ifstream statm("/proc/self/statm");
  statm >> pages >> resident;
  return resident * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

// A generator whose contexts the test can see and whose next opens it can refuse.
struct Rig {
  explicit Rig(const engine::ContextOptions& first) : model(fixtures::load(kDemo)) {
    auto read = engine::Tokenizer::from_gguf(model->file, kDemo);
    REQUIRE(read.ok());
    tokenizer.emplace(*std::move(read));
    auto opened = open(first);
    REQUIRE(opened.ok());
    generator.emplace(
        *std::move(opened), first, engine::SpeculationOptions{},
        [this](const engine::ContextOptions& o) { return open(o); }, *tokenizer);
  }

  base::Result<std::unique_ptr<engine::Context>> open(const engine::ContextOptions& o) {
    resident_at_open = resident_bytes();
    if (n_thrown > 0) {
      --n_thrown;
      throw std::system_error(std::make_error_code(std::errc::resource_unavailable_try_again),
                              "no thread today");
    }
    if (n_refused > 0) {
      --n_refused;
      return base::error("test", "no memory today");
    }
    auto opened = engine::Context::open(model, o);
    context = opened ? opened->get() : nullptr;
    return opened;
  }

  Reconfigured change(const engine::ContextOptions& to) { return generator->reconfigure(to, {}, never, why); }

  std::shared_ptr<engine::Task> submit(int n_predict, int prompt_tokens = 3) {
    engine::GenerationParams params;
    params.sampling.temperature = 0;
    params.sampling.ignore_eos = true;
    params.n_predict = n_predict;
    return generator->submit(std::vector<int>(static_cast<size_t>(prompt_tokens), 300), params);
  }

  std::shared_ptr<const engine::Model> model;
  std::optional<engine::Tokenizer> tokenizer;
  engine::Context* context = nullptr;  // the last one opened; the engine thread's while a task runs
  int n_refused = 0, n_thrown = 0;
  uint64_t resident_at_open = 0;
  std::string why;
  std::optional<engine::Generator> generator;
};

// The last event of a task.
engine::GenerationEvent finish(engine::Task& task) {
  while (true) {
    auto event = task.wait(std::chrono::seconds(120));
    REQUIRE(event.has_value());
    if (event->kind == engine::GenerationEvent::Kind::kDone ||
        event->kind == engine::GenerationEvent::Kind::kFailed) {
      return *event;
    }
  }
}

std::vector<int> prompt(int n) {
  std::vector<int> tokens;
  for (int i = 0; i < n; ++i) {
    tokens.push_back(300 + i * 37 % 200);
  }
  return tokens;
}

std::string refused(const std::string& body) {
  engine::ServerOptions options;
  options.model = "m.gguf";
  options.flash_attn = "on";
  const engine::ServerOptions before = options;
  std::vector<std::string> warnings;
  auto error = engine::parse_reconfiguration(body, options, warnings);
  REQUIRE_MESSAGE(error.has_value(), body);
  CHECK(error->code == 400);
  CHECK(options.context.n_ctx == before.context.n_ctx);
  CHECK(options.context.cache_type_v == before.context.cache_type_v);
  return error->message;
}

bool has(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("a reconfiguration's JSON: values as on the command line, the rest stays") {
  engine::ServerOptions o;
  o.model = "m.gguf";
  o.context.n_batch = 100;
  std::vector<std::string> warnings;
  CHECK(
      !engine::parse_reconfiguration(R"({"ctx_size":"4096","cache_type_k":"tbq4_0","cache_type_v":"q8_0",)"
                                     R"("n_ubatch":64,"n_threads":3,"n_threads_batch":"5","flash_attn":"on",)"
                                     R"("parallel":3})",
                                     o, warnings));
  CHECK(o.context.n_ctx == 4096);
  CHECK(o.context.cache_type_k == "tbq4_0");
  CHECK(o.context.cache_type_v == "q8_0");
  CHECK(o.context.n_batch == 100);
  CHECK(o.context.n_ubatch == 64);
  CHECK(o.context.n_threads == 3);
  CHECK(o.context.n_threads_batch == 5);
  CHECK(o.flash_attn == "on");
  CHECK(o.context_options().n_seqs == 3);
  CHECK_FALSE(o.context_options().kv_unified);
  CHECK(!engine::parse_reconfiguration("{}", o, warnings));
  CHECK(o.context.n_ctx == 4096);
}

TEST_CASE("a reconfiguration's JSON: what is wrong is a 400 that says why and changes nothing") {
  CHECK(has(refused("{"), "parse"));
  CHECK(has(refused("[]"), "object"));
  CHECK(has(refused(R"({"ctx_sze":1})"), "did you mean 'ctx_size'"));
  CHECK(has(refused(R"({"n_gpu_layers":1})"), "cannot be changed"));
  CHECK(has(refused(R"({"ctx_size":1000000000000})"), "not between"));
  CHECK(has(refused(R"({"ctx_size":1e12})"), "not a number"));
  CHECK(has(refused(R"({"ctx_size":-1})"), "not between"));
  CHECK(has(refused(R"({"ctx_size":null})"), "must be a number or a string"));
  CHECK(has(refused(R"({"ctx_size":[1]})"), "must be a number or a string"));
  CHECK(has(refused(R"({"n_threads":100000})"), "not between"));
  CHECK(has(refused(R"({"n_ubatch":0})"), "not between"));
  CHECK(has(refused(R"({"cache_type_k":"q3_k"})"), "Unsupported cache type"));
  CHECK(has(refused(R"({"flash_attn":"maybe"})"), "none of"));
  CHECK(has(refused(R"({"parallel":0})"), "no number of sequences"));
  CHECK(has(refused(R"({"ctx_size":512,"flash_attn":"off","cache_type_v":"q8_0"})"), "flash_attn"));
}

TEST_CASE("a reconfigured context computes what a fresh one does, to the bit, for every pair of steps") {
  Rig rig(options(512, "f16", "f16"));
  const auto tokens = prompt(300);
  std::vector<std::pair<const char*, const char*>> pairs;
  for (const kernels::KvFormat& type : kernels::kv_formats()) {
    pairs.emplace_back(type.name.data(), type.name.data());
  }
  pairs.emplace_back("tbq4_0", "tbq3_0");
  pairs.emplace_back("f16", "f16");
  int step = 0;
  for (const auto& pair : pairs) {
    const char* k = pair.first;
    const char* v = pair.second;
    CAPTURE(k);
    CAPTURE(v);
    const auto to = options(step % 2 == 0 ? 1024 : 512, k, v, step % 3 == 0 ? 17 : 128, 1 + step % 2);
    ++step;
    CHECK(finish(*rig.submit(4, 40)).result.tokens.size() == 4);  // leaves rows in the former cache
    REQUIRE(rig.change(to) == Reconfigured::kDone);
    CHECK(rig.generator->info().n_ctx == to.n_ctx);
    CHECK(rig.generator->info().cache_type_k == k);
    CHECK(rig.context->length(0) == 0);
    const auto changed = fixtures::logits(*rig.context, tokens);
    CHECK(fixtures::same_bits(changed, fixtures::logits(*fixtures::open(rig.model, to), tokens)));
    rig.context->truncate(0, 0);
  }
}

TEST_CASE("numerics_key: the same for what computes the same") {
  const auto model = fixtures::load(kDemo);
  const auto key = [&](const engine::ContextOptions& o) {
    return engine::numerics_key(*model, fixtures::open(model, o)->info());
  };
  const std::string base = key(options(512, "f16", "f16"));
  CHECK(base.size() == 16);
  CHECK(key(options(1024, "f16", "f16", 7, 2)) == base);
  CHECK(key(options(512, "q8_0", "f16")) != base);
  CHECK(key(options(512, "f16", "q8_0")) != base);
  CHECK(key(options(512, "f16", "q8_0")) != key(options(512, "q8_0", "f16")));
  const auto rotated = [&](const char* k, const char* rotate) {
    auto o = options(512, k, "f16");
    o.kv_rotate = rotate;
    return key(o);
  };
  CHECK(rotated("q4_0", "on") != rotated("q4_0", "off"));
  const auto with_edges = [&](const char* rotate) {
    auto o = options(512, "f16", "f16");
    o.kv_rotate = rotate;
    o.kv_first_last = "q8_0,1";
    return key(o);
  };
  CHECK(with_edges("on") != with_edges("off"));
  CHECK(rotated("q4_0", "on") == rotated("q4_0", "auto"));
  CHECK(rotated("tbq4_0", "on") == rotated("tbq4_0", "off"));
  CHECK(rotated("f16", "on") == base);
  const auto with_copies = [&](const char* k, int sink, int tail) {
    auto o = options(512, k, "f16");
    o.kv_sink = sink;
    o.kv_tail = tail;
    return key(o);
  };
  CHECK(with_copies("q4_0", 4, 0) != with_copies("q4_0", 0, 0));
  CHECK(with_copies("q4_0", 4, 0) == with_copies("q4_0", 128, 0));
  CHECK(with_copies("q4_0", 0, 64) != with_copies("q4_0", 0, 65));
  CHECK(with_copies("f16", 4, 64) == base);
  const auto other = fixtures::load(AR_SOURCE_DIR "/tests/data/tiny.gguf");
  const engine::ContextInfo info = fixtures::open(model, options(512, "f16", "f16"))->info();
  engine::ChatOptions chat;
  CHECK(engine::numerics_key(*model, info, chat) == engine::numerics_key(*model, info));
  chat.reasoning.budget = 5;
  CHECK(engine::numerics_key(*model, info, chat) != engine::numerics_key(*model, info));
  chat = {};
  chat.chat_template = *engine::ChatTemplate::from_option("qwen3");
  CHECK(engine::numerics_key(*model, info, chat) != engine::numerics_key(*model, info));
  CHECK(engine::numerics_key(*other, fixtures::open(model, options(512, "f16", "f16"))->info()) != base);
}

TEST_CASE("the former context's memory is given back before the next is opened") {
  Rig rig(options(65536, "f32", "f32"));
  const uint64_t kv = rig.generator->info().kv_bytes;
  REQUIRE(kv > (64u << 20));
  const uint64_t before = resident_bytes();
  REQUIRE(rig.change(options(65536, "f32", "f32")) == Reconfigured::kDone);
  CHECK(rig.resident_at_open + kv * 8 / 10 < before);
}

TEST_CASE("running and waiting requests finish first, later ones are told to come again") {
  Rig rig(options(2048, "f16", "f16"));
  auto running = rig.submit(400), waiting = rig.submit(5);
  REQUIRE(running->wait(std::chrono::seconds(60)).has_value());  // started
  std::atomic<bool> done = false;
  std::thread changer([&] {
    CHECK(rig.change(options(512, "q8_0", "q8_0")) == Reconfigured::kDone);
    done = true;
  });
  while (!rig.generator->paused() && !done) {
    std::this_thread::yield();
  }
  auto late = finish(*rig.submit(1));
  CHECK((late.kind == engine::GenerationEvent::Kind::kFailed || done));
  CHECK(finish(*running).result.tokens.size() == 400);
  CHECK(finish(*waiting).result.tokens.size() == 5);
  changer.join();
  if (late.kind == engine::GenerationEvent::Kind::kFailed) {
    CHECK(late.status == 503);
    CHECK(has(late.message, "reconfigured"));
  }
  CHECK(finish(*rig.submit(3)).result.tokens.size() == 3);
  CHECK(finish(*rig.submit(3, 600)).status == 503);  // checked by its client against the former 2048
}

TEST_CASE("a caller that gives up while requests run changes nothing") {
  Rig rig(options(2048, "f16", "f16"));
  auto running = rig.submit(300);
  REQUIRE(running->wait(std::chrono::seconds(60)).has_value());
  const engine::Context* before = rig.context;
  CHECK(rig.generator->reconfigure(
            options(512, "q8_0", "q8_0"), {}, [] { return true; }, rig.why) == Reconfigured::kGivenUp);
  CHECK(finish(*rig.submit(2)).result.tokens.size() == 2);
  CHECK(finish(*running).result.tokens.size() == 300);
  CHECK(rig.context == before);
  CHECK(rig.generator->info().n_ctx == 2048);
}

TEST_CASE("an open that throws is undone too, and the server goes on") {
  Rig rig(options(1024, "q8_0", "f16"));
  rig.n_thrown = 1;
  CHECK(rig.change(options(512, "f16", "f16")) == Reconfigured::kReverted);
  CHECK(has(rig.why, "no thread today"));
  CHECK_FALSE(rig.generator->paused());
  CHECK(finish(*rig.submit(3)).result.tokens.size() == 3);
  rig.n_thrown = 2;
  CHECK(rig.change(options(512, "f16", "f16")) == Reconfigured::kLost);
  CHECK(finish(*rig.submit(3)).status == 503);
}

TEST_CASE("what cannot be opened is undone; when that fails too, requests fail with 503") {
  Rig rig(options(1024, "q8_0", "f16"));
  rig.n_refused = 1;
  CHECK(rig.change(options(512, "f16", "f16")) == Reconfigured::kReverted);
  CHECK(has(rig.why, "no memory today"));
  CHECK(rig.generator->info().n_ctx == 1024);
  CHECK(rig.generator->info().cache_type_k == "q8_0");
  CHECK(finish(*rig.submit(3)).result.tokens.size() == 3);
  rig.n_refused = 2;
  CHECK(rig.change(options(512, "f16", "f16")) == Reconfigured::kLost);
  CHECK(has(rig.why, "former configuration"));
  CHECK(finish(*rig.submit(3)).status == 503);
  CHECK(rig.change(options(512, "f16", "f16")) == Reconfigured::kLost);
}

TEST_CASE("stop() ends a reconfiguration that waits") {
  Rig rig(options(2048, "f16", "f16"));
  auto running = rig.submit(-1);
  REQUIRE(running->wait(std::chrono::seconds(60)).has_value());
  std::thread stopper([&] {
    while (!rig.generator->paused()) {
      std::this_thread::yield();
    }
    rig.generator->stop();
  });
  const Reconfigured end = rig.change(options(512, "f16", "f16"));
  CHECK((end == Reconfigured::kStopped || finish(*running).kind == engine::GenerationEvent::Kind::kDone));
  stopper.join();
}

TEST_CASE("POST /reconfigure: what /props says, what is refused, and answers like a cold server's") {
  HttpRig rig;
  const Json before = rig.props();
  CHECK(before["reconfigure"].size() == 16);
  CHECK(before["numerics_key"].get<std::string>().size() == 16);
  const auto changed = rig.change(R"({"ctx_size":2048,"n_threads":2})");
  REQUIRE(changed.status == 200);
  const Json answer = Json::parse(changed.body);
  CHECK(answer["status"] == "ok");
  CHECK(answer["tbq"] == rig.props());
  CHECK(answer["tbq"]["n_ctx"] == 2048);
  CHECK(answer["tbq"]["n_threads"] == 2);
  CHECK(answer["tbq"]["cache_type_k"] == "f16");
  CHECK(answer["tbq"]["numerics_key"] == before["numerics_key"]);
  // Absurd, but a number an int holds: the plan refuses it, and says what would fit.
  const auto huge = rig.change(R"({"ctx_size":1000000000})");
  CHECK(huge.status == 400);
  CHECK(has(Json::parse(huge.body)["error"]["message"], "ctx-size"));
  for (const char* bad : {"", "nonsense", R"({"ctx_size":1000000000000})", R"({"no_such":1})"}) {
    const auto response = rig.change(bad);
    CHECK(response.status == 400);
    CHECK(Json::parse(response.body)["error"]["type"] == "invalid_request_error");
  }
  CHECK(rig.props() == answer["tbq"]);
  const auto said =
      rig.send("POST", "/completion", R"({"prompt":"What is a mutex?","temperature":0,"n_predict":8})");
  CHECK(said.status == 200);
  CHECK(rig.change(R"({"cache_type_k":"tbq4_0"})").status == 200);
  CHECK(rig.props()["numerics_key"] != before["numerics_key"]);
  CHECK(rig.props()["n_ctx"] == 2048);
  CHECK(!rig.lost);
}

TEST_CASE(
    "POST /reconfigure: one at a time, others are told 409, and requests in between are answered or told "
    "503") {
  HttpRig rig;
  std::atomic<int> n_odd = 0, n_done = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      const auto response =
          rig.change(fmt::format(R"({{"ctx_size":{},"n_ubatch":{}}})", 512 + 256 * i, 16 + i));
      const Json json = Json::parse(response.body);
      if (response.status == 409) {
        return;
      }
      ++n_done;
      n_odd += response.status != 200 || json["tbq"]["n_ctx"] != 512 + 256 * i ||
               json["tbq"]["n_ubatch"] != 16 + i;
    });
    threads.emplace_back([&] {
      const auto response = rig.send("POST", "/completion",
                                     R"({"prompt":"a","temperature":0,"n_predict":20,"ignore_eos":true})");
      n_odd += response.status != 200 && response.status != 503;
      n_odd += response.status == 200 && Json::parse(response.body)["tokens_predicted"] != 20;
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  CHECK(n_odd == 0);
  CHECK(n_done >= 1);
  CHECK(rig.send("POST", "/completion", R"({"prompt":"a","n_predict":1})").status == 200);
}

TEST_CASE("/health is 503 from the moment a reconfiguration is asked for until it is over, or given up") {
  HttpRig rig([](engine::ServerOptions& o) {
    o.context.n_ctx = 65536;  // minutes
    o.parallel = 1;
  });
  const auto retry_after = [](const os::HttpResponse& response) {
    const auto found =
        std::ranges::find(response.headers, "retry-after", [](const auto& h) { return h.first; });
    return found == response.headers.end() ? "" : found->second;
  };
  const auto healthy = [&] { return rig.get("/health").status == 200; };
  const auto wait_until = [&](bool wanted) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(120);
    while (healthy() != wanted && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return healthy() == wanted;
  };
  CHECK(healthy());
  std::atomic<bool> let_go = false;
  const auto talk = [&] {
    os::HttpRequest request;
    request.method = "POST";
    request.url = rig.server.url() + "/completion";
    request.body = R"({"prompt":"a","temperature":0,"ignore_eos":true,"stream":true})";
    request.timeout_s = 600;
    request.on_data = [&](std::string_view) { return !let_go.load(); };
    (void)os::http(request);
  };
  const auto running = [&] { return Json::parse(rig.get("/slots").body)[0]["is_processing"] == true; };
  std::thread talker(talk);
  while (!running()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  {  // a client that gives up while the request runs: all is as it was
    os::HttpRequest change;
    change.method = "POST";
    change.url = rig.server.url() + "/reconfigure";
    change.body = R"({"ctx_size":512})";
    change.timeout_s = 2;
    std::thread changer([&] { CHECK_FALSE(os::http(change).ok()); });
    CHECK(wait_until(false));
    changer.join();
    CHECK(wait_until(true));
    CHECK(running());
    CHECK(rig.props()["n_ctx"] == 65536);
  }
  std::thread changer([&] { CHECK(rig.change(R"({"ctx_size":512})").status == 200); });
  CHECK(wait_until(false));
  const os::HttpResponse health = rig.get("/health");
  CHECK(health.body == R"({"error":{"message":"Loading model","type":"unavailable_error","code":503}})");
  CHECK(retry_after(health) == "1");
  const os::HttpResponse refused = rig.post("/completion", R"({"prompt":"b","n_predict":1})");
  CHECK(refused.status == 503);
  CHECK(has(refused.body, "being reconfigured"));
  CHECK(retry_after(refused) == "1");
  CHECK(running());  // who was there first goes on
  let_go = true;
  talker.join();
  changer.join();
  CHECK(healthy());
  CHECK(rig.props()["n_ctx"] == 512);
  CHECK(rig.post("/completion", R"({"prompt":"b","n_predict":1})").status == 200);
}

TEST_CASE(
    "POST /reconfigure: the policy of the KV cache, told by /props and part of what computes the same") {
  const Scratch scratch;
  const std::string path = scratch / "demo.gguf";
  std::filesystem::create_symlink(kDemo, path);
  HttpRig rig([&](engine::ServerOptions& o) { o.model = path; });
  const Json before = rig.props();
  CHECK(before["kv_center"] == "off");
  CHECK(before["kv_center_id"] == nullptr);
  CHECK(before["kv_first_last"] == "off");
  REQUIRE(rig.change(R"({"kv_center":"on"})").status == 200);
  const Json centered = rig.props();
  CHECK(centered["kv_center"] == "on");
  CHECK(centered["kv_center_id"].get<std::string>().size() == 16);
  CHECK(centered["numerics_key"] != before["numerics_key"]);
  CHECK(centered["kv_bytes"] == before["kv_bytes"]);
  CHECK(std::filesystem::exists(path + ".kv-means"));
  REQUIRE(rig.change(R"({"kv_center":"off","kv_first_last":"q8_0,1"})").status == 200);
  const Json edged = rig.props();
  CHECK(edged["kv_first_last"] == "q8_0,1");
  CHECK(edged["numerics_key"] != before["numerics_key"]);
  CHECK(edged["k_bits_per_value"].get<double>() ==
        doctest::Approx((2 * 8.5 + 3 * 16) / 5));  // of five layers
  CHECK(rig.change(R"({"kv_first_last":"f16,0"})").status == 200);
  CHECK(rig.props()["numerics_key"] == before["numerics_key"]);
  CHECK(rig.change(R"({"kv_first_last":"q8_0,3"})").status == 400);  // more than half of the layers
  CHECK(rig.change(R"({"kv_center":"/etc/hostname"})").status == 400);
  CHECK(rig.post("/completion", R"({"prompt":"a","n_predict":1})").status == 200);

  // The file named at the start may go: what was opened with it can be opened again.
  const std::string named = scratch / "means";
  std::filesystem::rename(path + ".kv-means", named);
  HttpRig fixed([&](engine::ServerOptions& o) {
    o.model = path;
    o.context.kv_center = named;
  });
  const Json with_file = fixed.props();
  std::filesystem::remove(named);
  CHECK(fixed.change(R"({"n_ubatch":32})").status == 200);
  CHECK(fixed.props()["kv_center_id"] == with_file["kv_center_id"]);
  // And a driver that tried others puts it back: the one file that a request may name.
  CHECK(fixed.change(R"({"kv_center":"off"})").status == 200);
  CHECK(fixed.change(R"({"kv_center":"/etc/hostname"})").status == 400);
  CHECK(fixed.change(base::dump_line({{"kv_center", named}})).status == 200);
  CHECK(fixed.props()["kv_center_id"] == with_file["kv_center_id"]);
  CHECK(fixed.post("/completion", R"({"prompt":"a","n_predict":1})").status == 200);
  CHECK_FALSE(fixed.lost);
}

TEST_CASE("POST /reconfigure: no more slots than there are HTTP threads for their clients") {
  HttpRig rig([](engine::ServerOptions& o) { o.threads_http = 8; });
  const auto refused = rig.change(R"({"parallel":5})");
  CHECK(refused.status == 400);
  CHECK(refused.body.find("--threads-http 9") != std::string::npos);
  CHECK(rig.change(R"({"parallel":4})").status == 200);
}

TEST_CASE("--no-reconfigure: not advertised, and refused") {
  HttpRig rig([](engine::ServerOptions& o) { o.reconfigure = false; });
  CHECK(!rig.props().contains("reconfigure"));
  CHECK(rig.props().contains("numerics_key"));
  CHECK(rig.change(R"({"ctx_size":512})").status == 501);
  CHECK(rig.props()["n_ctx"] == 1024);
}
