#include "src/study/launcher.h"

#include <doctest/doctest.h>

#include <csignal>

#include "src/study/measurement.h"

namespace {

bool has(const std::string& text, const std::string& piece) {
  return text.find(piece) != std::string::npos;
}

os::ChildExit exit_code(int code) {
  os::ChildExit exit;
  exit.code = code;
  return exit;
}

os::ChildExit killed() {
  os::ChildExit exit;
  exit.by_signal = true;
  exit.code = SIGKILL;
  return exit;
}

base::Json json(const char* text) {
  return *base::parse_json(text, "test");
}

}  // namespace

TEST_CASE("an exit is told apart by what the log and the memory say") {
  using study::Status;
  os::MemoryTrace roomy, tight;
  roomy.total = tight.total = uint64_t{64} << 30;
  roomy.headroom_min = uint64_t{32} << 30;
  tight.headroom_min = uint64_t{1} << 30;
  const char* oom_log =
      "ggml_aligned_malloc: insufficient memory (attempted to allocate 9 MB)\nfailed to load model\n";

  auto failure = study::classify_exit(exit_code(1), roomy, oom_log, Status::kLoadCrash);
  CHECK_EQ(failure.status, Status::kOom);
  CHECK(has(failure.reason, "insufficient memory"));

  failure = study::classify_exit(
      exit_code(1), roomy, "I loading\nE failed to open GGUF file 'x'\nE exiting\n", Status::kLoadCrash);
  CHECK_EQ(failure.status, Status::kLoadCrash);
  CHECK(has(failure.reason, "failed to open GGUF file"));
  CHECK(has(failure.reason, "exit code 1 before it was ready"));

  CHECK_EQ(study::classify_exit(killed(), tight, "", Status::kLoadCrash).status, Status::kOom);
  CHECK_EQ(study::classify_exit(killed(), roomy, "", Status::kRunCrash).status, Status::kRunCrash);
  os::ChildExit guard = killed();
  guard.memory_guard = true;
  failure = study::classify_exit(guard, tight, "", Status::kRunCrash);
  CHECK_EQ(failure.status, Status::kOom);
  CHECK(has(failure.reason, "1.00 GiB"));
}

TEST_CASE("a refused lock on memory is not lack of memory") {
  using study::Status;
  const std::string warnings =
      "warning: failed to mlock 123-byte buffer (after previously locking 0 bytes): Cannot allocate memory\n"
      "Try increasing RLIMIT_MEMLOCK ('ulimit -l' as root).\n";
  auto failure = study::classify_exit(exit_code(1), {}, warnings + "E failed to bind\n", Status::kLoadCrash);
  CHECK_EQ(failure.status, Status::kLoadCrash);
  CHECK(has(failure.reason, "failed to bind"));
  failure = study::classify_exit(exit_code(1), {}, warnings, Status::kRunCrash);
  CHECK_EQ(failure.status, Status::kRunCrash);
  // Real lack of memory after it still counts.
  failure =
      study::classify_exit(exit_code(1), {}, warnings + "mmap: Cannot allocate memory\n", Status::kLoadCrash);
  CHECK_EQ(failure.status, Status::kOom);
  CHECK(has(failure.reason, "mmap: Cannot allocate memory"));
}

TEST_CASE("pinned memory that could not be had is not lack of memory") {
  using study::Status;
  const std::string warning =
      "ggml_cuda_host_malloc: failed to allocate 96.00 MiB of pinned memory: out of memory\n";
  auto failure =
      study::classify_exit(exit_code(134), {}, warning + "E failed to parse grammar\n", Status::kRunCrash);
  CHECK_EQ(failure.status, Status::kRunCrash);
  CHECK(has(failure.reason, "failed to parse grammar"));
  failure =
      study::classify_exit(exit_code(134), {}, warning + "CUDA error: out of memory\n", Status::kRunCrash);
  CHECK_EQ(failure.status, Status::kOom);
  CHECK(has(failure.reason, "CUDA error"));
}

TEST_CASE("the telling line is the first complaint, or the last words") {
  CHECK_EQ(study::telling_line("ok\nE error: bad flag\nE failed too\n"), "E error: bad flag");
  CHECK_EQ(study::telling_line("E failed to init\nCUDA error: out of memory\nbye"),
           "CUDA error: out of memory");
  CHECK_EQ(study::telling_line("hello\nbye\n\n"), "bye");
  CHECK_EQ(study::telling_line(""), "");
}

TEST_CASE("the effective configuration is compared with what was asked") {
  search::Axis ctx, k;
  ctx.name = "ctx_size";
  ctx.values = {int64_t{4096}};
  k.name = "cache_type_k";
  k.values = {std::string("q8_0")};
  search::Space space;
  space.axes = {ctx, k};
  search::Config config = space.default_config();
  auto effective = [](const char* props) { return study::effective_config(json(props)); };

  CHECK_EQ(
      study::config_mismatch(
          space, config, effective(R"({"default_generation_settings": {"n_ctx": 4096}, "total_slots": 1})")),
      "");
  CHECK(has(
      study::config_mismatch(space, config, effective(R"({"default_generation_settings": {"n_ctx": 2048}})")),
      "the server runs with 2048"));
  // Two slots of half the size are the whole that was asked for.
  CHECK_EQ(
      study::config_mismatch(
          space, config, effective(R"({"default_generation_settings": {"n_ctx": 2048}, "total_slots": 2})")),
      "");
  CHECK(has(study::config_mismatch(space, config, effective(R"({"tbq": {"cache_type_k": "f16"}})")),
            "cache_type_k q8_0"));
  CHECK_EQ(study::config_mismatch(space, config, effective("{}")), "");      // it does not say
  CHECK_EQ(study::config_mismatch(space, config, base::Json(nullptr)), "");  // no /props at all
  CHECK(effective("[1, 2]").empty());
}

TEST_CASE("what a server tells of itself is what it can be set back to") {
  search::Space space;
  for (const char* name : {"ctx_size", "n_threads", "flash_attn", "mmap", "parallel", "n_draft", "numa"}) {
    search::Axis axis;
    axis.name = name;
    axis.values = {int64_t{0}};
    space.axes.push_back(axis);
  }
  auto told = [&](const char* props) {
    return study::told_axes(space, study::effective_config(json(props)));
  };
  CHECK_EQ(told(R"({"default_generation_settings": {"n_ctx": 1024}, "total_slots": 2, "tbq": {"n_threads": 4,
      "flash_attn": "on", "mmap": true, "n_parallel": 2, "n_draft": 16, "n_batch": 9}})"),
           json(R"({"ctx_size": 2048, "n_threads": 4, "flash_attn": "on", "mmap": "on", "parallel": 2,
      "n_draft": 16})"));
  CHECK(told(R"({"tbq": {"n_threads": null}})").empty());
  CHECK(told(R"({"tbq": 3})").empty());
  CHECK(told("{}").empty());
}

TEST_CASE("every field the server tells is compared, and the mismatch names it") {
  auto axis = [](const char* name, search::Value value) {
    search::Axis one;
    one.name = name;
    one.values = {std::move(value)};
    return one;
  };
  search::Space space;
  space.axes = {axis("ctx_size", int64_t{1024}),       axis("n_batch", int64_t{2048}),
                axis("n_ubatch", int64_t{512}),        axis("n_threads", int64_t{4}),
                axis("flash_attn", std::string("on")), axis("mmap", true),
                axis("parallel", int64_t{1})};
  auto mismatch = [&](const char* props) {
    return study::config_mismatch(space, space.default_config(), study::effective_config(json(props)));
  };
  // A batch over the context is cut down to it: no mismatch.
  CHECK_EQ(mismatch(R"({"default_generation_settings": {"n_ctx": 1024}, "total_slots": 1,
      "tbq": {"n_batch": 1024, "n_ubatch": 512, "n_threads": 4, "flash_attn": "on", "mmap": true}})"),
           "");
  CHECK_EQ(mismatch(R"({"default_generation_settings": {"n_ctx": 1024}, "tbq": {"n_batch": 768}})"),
           "asked for n_batch 2048, the server runs with 768");
  CHECK_EQ(mismatch(R"({"tbq": {"n_ubatch": 64}})"), "asked for n_ubatch 512, the server runs with 64");
  CHECK_EQ(mismatch(R"({"tbq": {"n_threads": 2}})"), "asked for n_threads 4, the server runs with 2");
  CHECK_EQ(mismatch(R"({"tbq": {"flash_attn": "off"}})"),
           "asked for flash_attn on, the server runs with off");
  CHECK_EQ(mismatch(R"({"tbq": {"mmap": false}})"), "asked for mmap true, the server runs with false");
  CHECK_EQ(mismatch(R"({"total_slots": 4})"), "asked for parallel 1, the server runs with 4");
  CHECK_EQ(mismatch(R"({"tbq": {"n_threads": null}})"), "");
  CHECK_EQ(mismatch(R"({"tbq": "nonsense"})"), "");
}

TEST_CASE("the model is recognised by path, file name or alias, and nothing else") {
  const std::vector<std::string> names = {"/models/MiniMax-M2.5.gguf", "mm"};
  auto named = [&](const char* models) { return study::named_model(json(models), names).value_or("none"); };
  CHECK_EQ(named(R"({"data": [{"id": "/models/MiniMax-M2.5.gguf"}]})"), "/models/MiniMax-M2.5.gguf");
  CHECK_EQ(named(R"({"models": [{"name": "MiniMax-M2.5.gguf"}]})"), "MiniMax-M2.5.gguf");
  CHECK_EQ(named(R"({"data": [{"id": "MiniMax-M2.5"}]})"), "MiniMax-M2.5");
  CHECK_EQ(named(R"({"data": [{"id": "mm"}]})"), "mm");
  CHECK_EQ(named(R"({"data": [{"id": "other.gguf"}]})"), "none");
  CHECK_EQ(named(R"({"data": [{"id": ""}]})"), "none");
  CHECK_EQ(named(R"({"data": []})"), "none");
  CHECK_EQ(named(R"([3])"), "none");
  CHECK_EQ(named(R"({"data": [7, null]})"), "none");
  // Nothing was asked for: whatever it has.
  CHECK_EQ(study::named_model(json(R"({"data": [{"id": "any"}]})"), {}), "any");
  CHECK_EQ(study::named_model(json(R"({"data": [{"id": "Qwen/Qwen3-8B"}]})"), {"Qwen/Qwen3-8B"}),
           "Qwen/Qwen3-8B");
}

TEST_CASE("another model is told of in one line: the one that is there, and the one that should be") {
  auto told = [](const char* models) {
    return study::another_model(json(models), {"/models/MiniMax-M2.5.gguf", "mm"});
  };
  CHECK_EQ(told(R"({"object": "list", "data": [{"id": "other\u001b[31m.gguf", "meta": {"n_vocab": 7}}]})"),
           "the server names another model: 'other [31m.gguf', not '/models/MiniMax-M2.5.gguf'");
  CHECK_EQ(told(R"({"data": []})"),
           "the server's /v1/models names no model, not '/models/MiniMax-M2.5.gguf'");
  CHECK_EQ(study::another_model(json("{}"), {}), "the server's /v1/models names no model");
}

TEST_CASE("what a foreign server was started with is compared where no axis decides it") {
  search::Space space;
  auto props = [](const char* text) { return study::effective_config(json(text)); };
  const base::Json then = props(
      R"({"default_generation_settings": {"n_ctx": 4096}, "total_slots": 1, "model_path": "/m/a.gguf",
          "build_info": "b1", "tbq": {"cache_type_k": "f16", "n_batch": 2048, "n_ubatch": 512,
          "n_threads": 4, "n_threads_batch": 4, "kv_bytes": 1000, "mmap": true}})");
  const base::Json now = props(
      R"({"default_generation_settings": {"n_ctx": 1024}, "total_slots": 2, "model_path": "/m/b.gguf",
          "build_info": "b2", "tbq": {"cache_type_k": "q8_0", "n_batch": 1024, "n_ubatch": 256,
          "n_threads": 2, "n_threads_batch": 2, "kv_bytes": 1, "n_draft": 4}})");
  CHECK_EQ(study::changed_settings(space, then, then), "");
  CHECK_EQ(study::changed_settings(space, then, now),
           "model_path /m/a.gguf, now /m/b.gguf; n_ctx 4096, now 1024; total_slots 1, now 2; "
           "cache_type_k f16, now q8_0; n_batch 2048, now 1024; n_ubatch 512, now 256; n_threads 4, now 2; "
           "n_threads_batch 4, now 2; mmap true, now not told");
  // A trial that was cut off leaves its axes, and what follows from them, as they were then.
  for (const char* name : {"ctx_size", "parallel", "n_threads"}) {
    search::Axis axis;
    axis.name = name;
    axis.values = {int64_t{1}};
    space.axes.push_back(axis);
  }
  CHECK_EQ(study::changed_settings(space, then, now),
           "model_path /m/a.gguf, now /m/b.gguf; cache_type_k f16, now q8_0; mmap true, now not told");
  CHECK_EQ(study::changed_settings(space, base::Json(), now), "");  // nothing was told then
  CHECK_EQ(study::changed_settings(space, {{"model", "a"}}, {{"model", "b"}}), "model a, now b");
}

TEST_CASE("a probe's failure on a live server is a hang or a time-out") {
  using os::HttpFault;
  using study::Status;
  CHECK_EQ(study::classify_probe_error(HttpFault::kNoData, true), Status::kHang);
  CHECK_EQ(study::classify_probe_error(HttpFault::kTimedOut, true), Status::kTimeout);
  CHECK_EQ(study::classify_probe_error(HttpFault::kTimedOut, false), Status::kHang);
  CHECK_EQ(study::classify_probe_error(HttpFault::kStatus, true), Status::kRunCrash);
}

TEST_CASE("every status has one spelling") {
  for (int i = 0; i <= static_cast<int>(study::Status::kHostCrash); ++i) {
    auto status = static_cast<study::Status>(i);
    CHECK_EQ(study::parse_status(study::to_string(status)), status);
  }
  CHECK_FALSE(study::parse_status("fine").has_value());
}
