#include <doctest/doctest.h>

#include <string>

#include "src/study/study.h"

namespace {

// A space file with this `backend:` and whatever else stands before the axes.
std::string space(const std::string& backend, const std::string& top = "model: m.gguf\n",
                  const std::string& axes = "  poll: {values: [1, 2], default: 1, flag: --poll}\n") {
  return "study: s\n" + top + (backend.empty() ? "" : "backend: {" + backend + "}\n") + "axes:\n" + axes +
         "objective: {maximize: decode_tps}\n";
}

study::Study good(const std::string& text) {
  auto parsed = study::parse_space_file(text, "s.yaml");
  if (const auto* errors = std::get_if<study::SpaceFileErrors>(&parsed)) {
    FAIL(errors->to_string());
  }
  return std::get<study::Study>(std::move(parsed));
}

// The one error.
std::string bad(const std::string& text) {
  auto parsed = study::parse_space_file(text, "s.yaml");
  const auto* errors = std::get_if<study::SpaceFileErrors>(&parsed);
  REQUIRE(errors != nullptr);
  CHECK_EQ(errors->errors.size(), 1);
  return errors->to_string();
}

bool has(const std::string& text, const std::string& piece) {
  return text.find(piece) != std::string::npos;
}

}  // namespace

TEST_CASE("the four kinds and what belongs to them") {
  using study::BackendKind;
  CHECK(good(space("")).backend.kind == BackendKind::kTbqServer);
  CHECK(good(space("kind: llama-server")).backend.kind == BackendKind::kLlamaServer);
  auto openai =
      good(space("kind: openai, binary: vllm, args: [serve, '{model}'], ready_path: /health")).backend;
  CHECK(openai.kind == BackendKind::kOpenAi);
  CHECK_EQ(openai.ready_path, "/health");
  CHECK(openai.reuse == study::Reuse::kAuto);
  auto url = good(space("kind: url, url: 'http://127.0.0.1:8080/'", "")).backend;  // no model either
  CHECK(url.kind == BackendKind::kUrl);
  CHECK_EQ(url.url, "http://127.0.0.1:8080");
  CHECK(good(space("reuse: never")).backend.reuse == study::Reuse::kNever);

  CHECK(has(bad(space("kind: opena1")), "did you mean openai"));
  CHECK(has(bad(space("kind: url")), "has no url"));
  CHECK(has(bad(space("kind: url, url: '127.0.0.1:8080'")), "not the address"));
  CHECK(has(bad(space("kind: url, url: 'http://h:1/v1'")), "without /v1"));
  CHECK(has(bad(space("kind: url, url: 'http://me:hush@h:1'")), "without a password"));
  CHECK_FALSE(has(bad(space("kind: url, url: 'http://me:hush@h:1'")), "hush"));
  CHECK(has(bad(space("kind: url, url: 'http://h:1?key=x'")), "'?'"));
  CHECK(has(bad(space("url: 'http://h:1'")), "has no url"));
  CHECK(has(bad(space("kind: url, url: 'http://h:1', binary: x")), "neither binary nor args"));
  CHECK(has(bad(space("kind: url, url: 'http://h:1', args: [x]")), "neither binary nor args"));
  CHECK(has(bad(space("kind: url, url: 'http://h:1', reuse: never")), "fresh process"));
  CHECK(has(bad(space("ready_path: /health")), "/health says so"));
  CHECK(has(bad(space("kind: openai, binary: x, ready_path: health")), "begin with /"));
  CHECK(has(bad(space("reuse: always")), "auto or never"));
}

TEST_CASE("a stall is shorter than the time for the load") {
  CHECK_EQ(good(space("load_timeout: 20m, load_stall: 5m")).backend.load_stall_s, 300);
  CHECK_EQ(good(space("load_timeout: 10s")).backend.load_timeout_s, 10);  // the default stall is then off
  CHECK(has(bad(space("load_timeout: 1m, load_stall: 1m")), "shorter than backend.load_timeout"));
  CHECK(has(bad(space("load_stall: 0")), "more than 0"));
}

TEST_CASE("the service is a unit's name and nothing else") {
  CHECK_EQ(good(space("", "model: m\nservice: llama-minimax@1.service\n")).service,
           "llama-minimax@1.service");
  CHECK(has(bad(space("", "model: m\nservice: llama\n")), "not the name of a systemd service"));
  CHECK(has(bad(space("", "model: m\nservice: --now.service\n")), "not the name"));
  CHECK(has(bad(space("", "model: m\nservice: 'a;b.service'\n")), "not the name"));
}

TEST_CASE("model and binary as axes") {
  const std::string axes =
      "  model: {values: [a.gguf, b.gguf], default: b.gguf}\n  binary: {values: [x, 7], default: x}\n";
  study::Study study = good(space("", "", axes));
  CHECK_EQ(study.model, "b.gguf");
  CHECK_EQ(search::to_string(study.space.find("binary")->values[1]), "7");  // a name, not a number
  CHECK(std::holds_alternative<std::string>(study.space.find("binary")->values[1]));
  CHECK(has(bad(space("", "model: m\n", axes)), "axis already"));
  CHECK(has(bad(space("", "")), "'model' is missing"));
}
