#include "src/study/backends.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "src/os/http_server.h"

namespace {

// The shapes --help really has: several flags a line, hints, continuation lines, deprecated switches.
constexpr const char* kRecentHelp = R"(----- common params -----

-h,    --help, --usage                  print usage and exit
-t,    --threads N                      number of CPU threads to use during generation (default: -1)
                                        (env: LLAMA_ARG_THREADS)
-tb,   --threads-batch N                number of threads to use during batch and prompt processing
-c,    --ctx-size N                     size of the prompt context
-b,    --batch-size N                   logical maximum batch size (default: 2048)
-ub,   --ubatch-size N                  physical maximum batch size (default: 512)
-fa,   --flash-attn [on|off|auto]       set Flash Attention use ('on', 'off', or 'auto', default: 'auto')
--mlock                                 DEPRECATED in favor of `--load-mode`
--mmap, --no-mmap                       DEPRECATED in favor of `--load-mode`
-lm,   --load-mode MODE                 model loading mode (default: auto)
                                        - auto: mmap, unless a device does not support it
--numa TYPE                             attempt optimizations that help on some NUMA systems
                                        - distribute: spread execution evenly over all nodes
-ctk,  --cache-type-k TYPE              KV cache data type for K
-ctv,  --cache-type-v TYPE              KV cache data type for V
-ngl,  --gpu-layers, --n-gpu-layers N   max. number of layers to store in VRAM, either an exact number,
                                        'auto', or 'all' (default: auto)
-fit,  --fit [on|off]                   whether to adjust unset arguments to fit in device memory
-cram, --cache-ram N                    set the maximum cache size in MiB
-np,   --parallel N                     number of server slots
--warmup, --no-warmup                   whether to perform warmup with an empty run (default: enabled)
--cache-prompt, --no-cache-prompt       whether to enable prompt caching (default: enabled)
--spec-type none,ngram-simple,ngram-mod
                                        comma-separated list of types of speculative decoding to use
--spec-ngram-mod-n-min N                minimum number of ngram tokens
--spec-ngram-mod-n-max N                maximum number of ngram tokens
-m,    --model FNAME                    model path to load
--port PORT                             port to listen (default: 8080)
)";

constexpr const char* kOldHelp = R"(
  -m,  --model FNAME              model path
       --port PORT                port to listen
  -c,  --ctx-size N               size of the prompt context
  -fa, --flash-attn               enable Flash Attention (default: disabled)
  -ngl,--gpu-layers N             number of layers to store in VRAM
       --no-mmap                  do not memory-map model
       --mlock                    force system to keep model in RAM
)";

search::Axis axis(const char* name, std::vector<search::Value> values, size_t default_index = 0) {
  search::Axis out;
  out.name = name;
  out.values = std::move(values);
  out.default_index = default_index;
  return out;
}

study::Study make_study() {
  study::Study study;
  study.model = "/models/m.gguf";
  study.space.axes = {
      axis("n_gpu_layers", {std::string("all"), int64_t{0}}),
      axis("ctx_size", {int64_t{4096}}),
      axis("flash_attn", {std::string("on"), std::string("off")}),
      axis("numa", {std::string("disabled"), std::string("distribute")}),
      axis("mmap", {true, false}),
      axis("mlock", {false, true}),
      axis("n_draft", {int64_t{0}, int64_t{4}}),
  };
  return study;
}

std::string argv_text(const std::vector<std::string>& argv) {
  std::string text;
  for (const std::string& word : argv) {
    text += word + " ";
  }
  return text;
}

study::ServerProgram program_with(const char* help) {
  study::ServerProgram program;
  program.path = "/bin/llama-server";
  program.flags = study::parse_help(help);
  return program;
}

std::string launch(const study::Study& study, const study::ServerProgram& program,
                   const search::Config& config) {
  study::LaunchSite site;
  site.port = 4242;
  auto plan = study::plan_launch(study, program, config, site);
  return plan ? argv_text(plan->argv) : "error " + plan.failure().to_string();
}

bool has(const std::string& text, const std::string& piece) {
  return text.find(piece) != std::string::npos;
}

}  // namespace

TEST_CASE("--help is read with aliases, hints and descriptions") {
  study::FlagSet flags = study::parse_help(kRecentHelp);
  CHECK(flags.has("--n-gpu-layers"));
  CHECK(flags.has("--gpu-layers"));
  CHECK(flags.has("-ngl"));
  CHECK_EQ(flags.find("--flash-attn")->hint, "[on|off|auto]");
  CHECK_EQ(flags.find("--mlock")->hint, "");
  CHECK(has(flags.find("--n-gpu-layers")->description, "'all'"));
  CHECK(flags.has("--no-mmap"));
  CHECK(flags.has("--spec-type"));
  CHECK_FALSE(flags.has("-----"));
  CHECK_FALSE(flags.has("-"));
  study::FlagSet old = study::parse_help(kOldHelp);
  CHECK(old.has("--gpu-layers"));
  CHECK_EQ(old.find("--flash-attn")->hint, "");
  CHECK(study::parse_help("").flags.empty());
  CHECK(study::parse_help("-\n--\n-,\n---- x\n").flags.size() <= 4);
}

TEST_CASE("a recent build gets its spellings, and what it would decide itself is pinned") {
  study::Study study = make_study();
  auto program = program_with(kRecentHelp);
  std::string line = launch(study, program, study.space.default_config());
  CHECK(has(line, "--model /models/m.gguf --host 127.0.0.1 --port 4242 "));
  CHECK(has(line, "--fit off "));
  CHECK(has(line, "--parallel 1 "));
  CHECK(has(line, "--cache-ram 0 "));
  CHECK(has(line, "--no-cache-prompt "));
  CHECK(has(line, "--warmup "));
  CHECK(has(line, "--n-gpu-layers all "));
  CHECK(has(line, "--flash-attn on "));
  CHECK(has(line, "--load-mode mmap "));
  CHECK_FALSE(has(line, "--numa"));
  CHECK_FALSE(has(line, "--spec-type"));
  CHECK_FALSE(has(line, "--no-context-shift"));  // this build does not offer it

  search::Config other = {int64_t{0}, int64_t{4096}, std::string("off"), std::string("distribute"),
                          false,      true,          int64_t{4}};
  line = launch(study, program, other);
  CHECK(has(line, "--n-gpu-layers 0 "));
  CHECK(has(line, "--flash-attn off "));
  CHECK(has(line, "--numa distribute "));
  CHECK(has(line, "--load-mode mlock "));
  CHECK_EQ(line.find("--load-mode"), line.rfind("--load-mode"));
  CHECK(has(line, "--spec-type ngram-mod --spec-ngram-mod-n-min 4 --spec-ngram-mod-n-max 4 "));
}

TEST_CASE("an old build gets the old spellings") {
  study::Study study = make_study();
  study.space.axes.resize(6);  // no n_draft
  study.space.axes.erase(study.space.axes.begin() + 3);
  auto program = program_with(kOldHelp);
  std::string line = launch(study, program, study.space.default_config());
  CHECK(has(line, "--gpu-layers 999 "));
  CHECK(has(line, "--flash-attn "));
  CHECK_FALSE(has(line, "--flash-attn on"));
  CHECK_FALSE(has(line, "--fit"));
  CHECK_FALSE(has(line, "mmap"));
  search::Config other = {int64_t{0}, int64_t{4096}, std::string("off"), false, true};
  line = launch(study, program, other);
  CHECK_FALSE(has(line, "--flash-attn"));
  CHECK(has(line, "--no-mmap "));
  CHECK(has(line, "--mlock "));
}

TEST_CASE("values a build cannot be given are named before the night begins") {
  study::Study study = make_study();
  auto problems = study::unsupported_axes(study, program_with(kOldHelp));
  REQUIRE_EQ(problems.size(), 2);
  CHECK_EQ(problems[0].where, "numa");
  CHECK_EQ(problems[1].where, "n_draft");
  CHECK(study::unsupported_axes(study, program_with(kRecentHelp)).empty());
  study.space.axes.push_back(axis("colour", {std::string("red")}));
  problems = study::unsupported_axes(study, program_with(kRecentHelp));
  REQUIRE_EQ(problems.size(), 1);
  CHECK(has(problems[0].next, "flag: or env:"));
}

TEST_CASE("axes of their own go by flag or environment; the user's args come last") {
  study::Study study = make_study();
  study.space.axes = {axis("poll", {int64_t{50}}), axis("swa_full", {true, false}),
                      axis("blas", {std::string("4")})};
  study.bindings = {
      {"poll", {"--poll", ""}}, {"swa_full", {"--swa-full", ""}}, {"blas", {"", "OMP_NUM_THREADS"}}};
  study.backend.args = {"--fit", "on"};
  study.backend.env = {{"CUDA_VISIBLE_DEVICES", "0"}};
  study::LaunchSite site;
  site.empty_config_dir = "/empty";
  site.api_key = "very-secret";
  site.inherited_names = {"PATH", "LLAMA_ARG_CTX_SIZE", "LLAMA_API_KEY"};
  auto plan = study::plan_launch(study, program_with(kRecentHelp), study.space.default_config(), site);
  REQUIRE(plan.ok());
  std::string line = argv_text(plan->argv);
  CHECK(has(line, "--poll 50 --swa-full --fit on "));
  CHECK_FALSE(has(line, "very-secret"));
  study.backend.env["HF_TOKEN"] = "hush";
  const auto with_secret =
      study::plan_launch(study, program_with(kRecentHelp), study.space.default_config(), site);
  REQUIRE(with_secret.ok());
  CHECK(study::served_env(study, *with_secret) ==
        std::vector<std::string>{"OMP_NUM_THREADS=4", "CUDA_VISIBLE_DEVICES=0", "HF_TOKEN=***"});
  using Pair = std::pair<std::string, std::string>;
  for (const Pair& wanted : {Pair{"OMP_NUM_THREADS", "4"}, Pair{"CUDA_VISIBLE_DEVICES", "0"},
                             Pair{"XDG_CONFIG_HOME", "/empty"}, Pair{"LLAMA_API_KEY", "very-secret"}}) {
    CAPTURE(wanted.first);
    CHECK_EQ(std::count(plan->env.begin(), plan->env.end(), wanted), 1);
  }
  CHECK_EQ(plan->unset_env,
           std::vector<std::string>{"LLAMA_ARG_CTX_SIZE"});  // the key is replaced, not unset
}

TEST_CASE("an openai command is started as it is written, with its placeholders filled") {
  study::Study study;
  study.model = "Qwen/Qwen3-8B";
  study.backend.kind = study::BackendKind::kOpenAi;
  study.backend.args = {"serve", "{model}", "--port={port}", "--json", "{\"a\": {host}}"};
  study.backend.env = {{"VLLM_PORT", "{port}"}};
  study.space.axes = {axis("max_len", {int64_t{8192}}), axis("eager", {true, false})};
  study.bindings = {{"max_len", {"--max-model-len", ""}}, {"eager", {"--enforce-eager", ""}}};
  study::ServerProgram vllm;
  vllm.kind = study.backend.kind;
  vllm.path = "/bin/vllm";
  vllm.native = false;
  study::LaunchSite site;
  site.port = 4242;
  site.empty_config_dir = "/empty";
  site.inherited_names = {"LLAMA_ARG_CTX_SIZE"};
  auto plan = study::plan_launch(study, vllm, study.space.default_config(), site);
  REQUIRE(plan.ok());
  CHECK_EQ(argv_text(plan->argv),
           "/bin/vllm serve Qwen/Qwen3-8B --port=4242 --json {\"a\": 127.0.0.1} --max-model-len 8192 "
           "--enforce-eager ");
  CHECK_EQ(plan->env, decltype(plan->env){{"VLLM_PORT", "4242"}});
  CHECK(plan->unset_env.empty());
  CHECK_EQ(plan->port, 4242);
  CHECK_EQ(plan->ready_path, "/v1/models");
  CHECK_FALSE(plan->native);
  CHECK_FALSE(plan->foreign);
  CHECK_EQ(plan->model_names, std::vector<std::string>{"Qwen/Qwen3-8B"});
  study.backend.args = {"serve", "--served-model-name", "q", "r", "--x", "y", "--alias=z"};
  study.backend.env.clear();
  study.backend.ready_path = "/ready";
  plan = study::plan_launch(study, vllm, study.space.default_config(), site);
  REQUIRE(plan.ok());
  CHECK(has(argv_text(plan->argv), "--alias=z --host 127.0.0.1 --port 4242 --max-model-len"));
  CHECK_EQ(plan->model_names, std::vector<std::string>{"Qwen/Qwen3-8B", "q", "r", "z"});
  CHECK_EQ(plan->ready_path, "/ready");

  study.space.axes.push_back(axis("ctx_size", {int64_t{1}}));  // known by name elsewhere
  study.space.axes.push_back(axis("model", {std::string("a")}));
  auto problems = study::unsupported_axes(study, vllm);
  REQUIRE_EQ(problems.size(), 2);
  CHECK(has(problems[0].next, "flag: or env:"));
  CHECK(has(problems[1].next, "{model}"));
  CHECK_FALSE(study::plan_launch(study, vllm, study.space.default_config(), site).ok());
}

TEST_CASE("a running server is reached, not launched, and takes the axes of its /reconfigure") {
  study::Study study;
  study.backend.kind = study::BackendKind::kUrl;
  study.space.axes = {axis("ctx_size", {int64_t{1024}}), axis("mmap", {true}), axis("poll", {int64_t{1}})};
  study.bindings = {{"poll", {"--poll", ""}}};
  study::ServerProgram running;
  running.kind = study.backend.kind;
  running.path = "http://127.0.0.1:8080";
  auto plan = study::plan_launch(study, running, study.space.default_config(), {});
  REQUIRE(plan.ok());
  CHECK(plan->foreign);
  CHECK(plan->argv.empty());
  CHECK_EQ(plan->url, "http://127.0.0.1:8080");
  CHECK_EQ(plan->ready_path, "/health");
  CHECK(plan->model_names.empty());
  auto problems = study::unsupported_axes(study, running);
  REQUIRE_EQ(problems.size(), 3);
  CHECK(has(problems[0].what, "offers no /reconfigure"));
  auto props = base::parse_json(R"({"tbq": {"reconfigure": ["ctx_size", 3, "poll"]}})", "");
  running.reconfigurable = study::reconfigurable_axes(*props);
  problems = study::unsupported_axes(study, running);
  REQUIRE_EQ(problems.size(), 2);
  CHECK_EQ(problems[0].where, "mmap");
  CHECK_EQ(problems[1].where, "poll");  // a flag is no use once it runs
  for (const char* none : {"{}", "[]", R"({"tbq": 1})", R"({"tbq": {"reconfigure": "all"}})"}) {
    CHECK(study::reconfigurable_axes(*base::parse_json(none, "")).empty());
  }
}

TEST_CASE("each configuration has its program and its model where they are axes") {
  study::Study study;
  study.space.axes = {axis("binary", {std::string("new"), std::string("old")}),
                      axis("model", {std::string("/a.gguf"), std::string("/b.gguf")}),
                      axis("n_gpu_layers", {std::string("all")})};
  study::ServerProgram program = program_with(kRecentHelp), old = program_with(kOldHelp);
  program.name = "new";
  old.name = "old";
  old.path = "/old/llama-server";
  program.others = {old};
  std::string line = launch(study, program, study.space.default_config());
  CHECK(line.starts_with("/bin/llama-server --model /a.gguf "));
  CHECK(has(line, "--n-gpu-layers all"));
  line = launch(study, program, {std::string("old"), std::string("/b.gguf"), std::string("all")});
  CHECK(line.starts_with("/old/llama-server --model /b.gguf "));
  CHECK(has(line, "--gpu-layers 999"));  // its own spellings
  CHECK(study::unsupported_axes(study, program).empty());
  study.space.axes.push_back(axis("numa", {std::string("distribute")}));
  auto problems = study::unsupported_axes(study, program);
  REQUIRE_EQ(problems.size(), 1);
  CHECK(has(problems[0].what, "/old/llama-server"));
}

TEST_CASE("a command line names program and model so that it serves from anywhere") {
  study::Study study = make_study();
  study.model = "models/../models/m.gguf";
  study::ServerProgram program = program_with(kRecentHelp);
  program.path = "./bin/llama-server";
  study::LaunchSite site;
  site.directory = "/home/me";
  auto plan = study::plan_launch(study, program, study.space.default_config(), site);
  REQUIRE(plan.ok());
  CHECK(argv_text(plan->argv).starts_with("/home/me/bin/llama-server --model /home/me/models/m.gguf --host"));
  study.model = "/models/m.gguf";
  plan = study::plan_launch(study, program, study.space.default_config(), site);
  CHECK(has(argv_text(plan->argv), "--model /models/m.gguf --host"));
}

TEST_CASE("a running server that wants a key is told apart from one that cannot be changed") {
  os::HttpServerOptions http;
  http.host = "127.0.0.1";
  auto server = os::HttpServer::bind(std::move(http));
  REQUIRE(server.ok());
  REQUIRE((*server)
              ->start([](const os::HttpIncoming& request, os::HttpReply& reply) {
                if (request.path == "/v1/models") {  // as llama-server: public
                  return reply.send(200, "application/json", R"({"data":[{"id":"m"}]})");
                }
                reply.send(401, "application/json", "{}");
              })
              .ok());
  study::BackendOptions options;
  options.kind = study::BackendKind::kUrl;
  options.url = "http://127.0.0.1:" + std::to_string((*server)->port());
  auto found = study::discover_backend(options);
  REQUIRE_FALSE(found.ok());
  CHECK(has(found.failure().to_string(), "/props gave HTTP 401: the server wants a key; name the variable"));
  options.api_key_env = "AR_TEST_NO_SUCH_KEY";
  found = study::discover_backend(options);
  REQUIRE_FALSE(found.ok());
  CHECK(has(found.failure().to_string(), "another key than it got; put the server's key into the variable "));
  (*server)->stop();
}

TEST_CASE("secrets are redacted, look-alikes are not") {
  using Words = std::vector<std::string>;
  CHECK_EQ(study::redacted(
               {"s", "--api-key", "k1", "--hf-token=abc", "--max-tokens", "64", "--api-key-file", "/k"}),
           Words{"s", "--api-key", "***", "--hf-token=***", "--max-tokens", "64", "--api-key-file", "/k"});
  CHECK_EQ(study::redacted({"--api-key"}), Words{"--api-key"});
  for (const char* secret : {"--key", "--bearer", "OPENAI_KEY", "--hf-token", "DB_PASSWD"}) {
    CHECK(study::names_a_secret(secret));
  }
  for (const char* harmless : {"--max-tokens", "--ssl-key-file", "--cache-type-k", "--hotkeys", "keep"}) {
    CHECK_FALSE(study::names_a_secret(harmless));
  }
}
