#include <doctest/doctest.h>

#include <cstdio>
#include <fstream>
#include <map>

#include "src/engine/server_options.h"

using engine::parse_server_options;

namespace {

using Env = std::map<std::string, std::string>;

base::Result<engine::ParsedOptions> parse(std::vector<std::string> args, const Env& env = {}) {
  return parse_server_options(args, [&](const char* name) {
    auto found = env.find(name);
    return found == env.end() ? nullptr : found->second.c_str();
  });
}

engine::ParsedOptions good(std::vector<std::string> args, const Env& env = {}) {
  args.insert(args.begin(), {"-m", "m.gguf"});
  auto parsed = parse(std::move(args), env);
  REQUIRE_MESSAGE(parsed.ok(), (parsed.ok() ? "" : parsed.failure().to_string()));
  return *parsed;
}

std::string bad(std::vector<std::string> args, const Env& env = {}) {
  args.insert(args.begin(), {"-m", "m.gguf"});
  auto parsed = parse(std::move(args), env);
  return parsed.ok() ? "" : parsed.failure().to_string();
}

bool has(const std::vector<std::string>& lines, std::string_view part) {
  for (const std::string& line : lines) {
    if (line.find(part) != std::string::npos) {
      return true;
    }
  }
  return false;
}

}  // namespace

TEST_CASE("llama-server's spellings, short and long, with dashes or underscores") {
  auto o = good({"-c",
                 "8192",
                 "-b",
                 "256",
                 "-ub",
                 "64",
                 "-t",
                 "3",
                 "-tb",
                 "5",
                 "-np",
                 "1",
                 "-ctk",
                 "tbq4_0",
                 "--cache_type_v",
                 "q8_0",
                 "-ngl",
                 "0",
                 "-fa",
                 "on",
                 "--host",
                 "0.0.0.0",
                 "--port",
                 "0",
                 "-a",
                 "name",
                 "--no-mmap",
                 "--mlock",
                 "-s",
                 "7",
                 "--temp",
                 "0",
                 "--top-k",
                 "1",
                 "--top-p",
                 "0.5",
                 "--min-p",
                 "0",
                 "-n",
                 "9",
                 "--no-warmup",
                 "--ignore-eos",
                 "--no-cache-prompt",
                 "-lv",
                 "1",
                 "--timeout",
                 "5",
                 "--threads-http",
                 "3",
                 "--fit",
                 "off"})
               .options;
  CHECK(o.context.n_ctx == 8192);
  CHECK(o.context.n_batch == 256);
  CHECK(o.context.n_ubatch == 64);
  CHECK(o.context.n_threads == 3);
  CHECK(o.context.n_threads_batch == 5);
  CHECK(o.context.cache_type_k == "tbq4_0");
  CHECK(o.context.cache_type_v == "q8_0");
  CHECK(o.host == "0.0.0.0");
  CHECK(o.port == 0);
  CHECK(o.model_name() == "name");
  CHECK_FALSE(o.mmap);
  CHECK(o.mlock);
  CHECK(o.sampling.seed == 7);
  CHECK(o.sampling.temperature == 0);
  CHECK(o.sampling.top_k == 1);
  CHECK(o.sampling.top_p == 0.5F);
  CHECK(o.sampling.min_p == 0);
  CHECK(o.sampling.ignore_eos);
  CHECK(o.n_predict == 9);
  CHECK_FALSE(o.warmup);
  CHECK_FALSE(o.cache_prompt);
  CHECK(o.verbosity == 1);
  CHECK(o.timeout_s == 5);
  CHECK(o.threads_http == 3);
}

TEST_CASE("defaults are llama-server's, on this machine only") {
  auto o = good({}).options;
  CHECK(o.host == "127.0.0.1");
  CHECK(o.port == 8080);
  CHECK(o.context.n_batch == 2048);
  CHECK(o.context.n_ubatch == 512);
  CHECK(o.context.cache_type_k == "f16");
  CHECK(o.sampling.seed == engine::kRandomSeed);
  CHECK(good({"-t", "-1"}).options.context.n_threads == 0);
}

TEST_CASE("unknown flags are named, with what was probably meant") {
  CHECK(bad({"--foo"}).find("invalid argument: --foo") == 0);
  CHECK(bad({"--ctx-sise", "1"}) == "invalid argument: --ctx-sise; did you mean --ctx-size?");
  CHECK(bad({"stray"}).find("invalid argument: stray") == 0);
  CHECK(bad({"--draft-max", "4"})
            .find("the argument has been removed. use --spec-draft-n-max or --spec-ngram-mod-n-max") !=
        std::string::npos);
}

TEST_CASE("--parallel and --kv-unified: four sequences in one cache unless a number is given") {
  const auto context = [](std::vector<std::string> args) {
    return good(std::move(args)).options.context_options();
  };
  CHECK(context({}).n_seqs == 4);
  CHECK(context({}).kv_unified);
  CHECK(context({"-np", "-1"}).kv_unified);
  CHECK(context({"-np", "1"}).n_seqs == 1);
  CHECK_FALSE(context({"-np", "1"}).kv_unified);
  CHECK(context({"-np", "3", "-c", "4096"}).n_seqs == 3);
  CHECK(context({"-np", "3", "-c", "4096"}).n_ctx == 4096);
  CHECK(context({"-kvu", "-np", "3"}).kv_unified);
  CHECK_FALSE(context({"-no-kvu"}).kv_unified);
  CHECK_FALSE(context({"--no-kv-unified"}).kv_unified);
  CHECK(good({"-cb"}).warnings.empty());
  CHECK(has(good({"-nocb"}).warnings, "always evaluated together"));
}

TEST_CASE("bad values are refused with the flag and the reason") {
  CHECK(bad({"-c", "lots"}).find("error while handling argument \"-c\": 'lots' is not a number") == 0);
  CHECK(bad({"-c", "12x"}).find("not a number") != std::string::npos);
  CHECK(bad({"-c", "-5"}).find("-5 is not between 0 and") != std::string::npos);
  CHECK(bad({"--port", "65536"}).find("65536 is not between 0 and 65535") != std::string::npos);
  CHECK(bad({"--temp", "nan"}).find("not a number") != std::string::npos);
  CHECK(bad({"-c"}).find("expected value for argument") != std::string::npos);
  CHECK(bad({"-np", "0"}).find("0 is no number of sequences") != std::string::npos);
  CHECK(bad({"-np", "1025"}).find("not between") != std::string::npos);
  CHECK(bad({"-fa", "maybe"}).find("none of: on, off, auto") != std::string::npos);
  std::string type = bad({"-ctk", "q3_k"});
  CHECK(type.find("Unsupported cache type: q3_k") != std::string::npos);
  CHECK(type.find("tbq3_0") != std::string::npos);
  CHECK(good({"-ctk", "iq4_nl", "-ctv", "bf16"}).options.context.kv_rotate == "auto");
  CHECK(good({"--kv-rotate", "off"}).options.context.kv_rotate == "off");
  CHECK(bad({"--kv-rotate", "maybe"}).find("'maybe' is none of: on, off, auto") != std::string::npos);
  CHECK(good({"--kv-first-last", "q8_0,2", "--kv-center", "on"}).options.context.kv_first_last == "q8_0,2");
  CHECK(bad({"--kv-first-last", "q9_0,2"}).find("unknown cache type 'q9_0'") != std::string::npos);
  CHECK(bad({"--kv-first-last", "q8_0"}).find("'' is no number of layers") != std::string::npos);
  CHECK(good({"--kv-center", "m.means"}).options.context.kv_center == "m.means");
  CHECK(good({"--kv-sink", "4"}).options.context.kv_sink == 4);
  CHECK(good({"--kv-tail", "128"}).options.context.kv_tail == 128);
  CHECK(bad({"--kv-tail", "-1"}).find("-1 is not between 0 and") != std::string::npos);
  CHECK(bad({"-fa", "off", "-ctv", "q8_0"}).find("quantized V cache requires flash_attn to be enabled") == 0);
  CHECK(bad({"-fa", "off", "-ctv", "f16"}).empty());
  auto none = parse({});
  REQUIRE_FALSE(none.ok());
  CHECK(none.failure().to_string().find("no model was given") == 0);
  CHECK(parse({"--help"}).ok());
}

TEST_CASE("what a CPU build does not do is said, not failed") {
  CHECK(has(good({"-ngl", "99"}).warnings, "no usable GPU found, --gpu-layers option will be ignored"));
  CHECK(good({"-ngl", "0"}).warnings.empty());
  CHECK(has(good({"--numa", "distribute"}).warnings, "--numa is ignored"));
  CHECK(has(good({"-fa", "off"}).warnings, "--flash-attn off is ignored"));
}

TEST_CASE("a repeated flag warns and the last one wins") {
  auto parsed = good({"-c", "1024", "--ctx-size", "2048"});
  CHECK(parsed.options.context.n_ctx == 2048);
  CHECK(has(parsed.warnings, "--ctx-size was given more than once"));
}

TEST_CASE("the environment counts where the command line is silent") {
  CHECK(good({}, {{"LLAMA_ARG_CTX_SIZE", "512"}}).options.context.n_ctx == 512);
  auto parsed = good({"-c", "1024"}, {{"LLAMA_ARG_CTX_SIZE", "512"}});
  CHECK(parsed.options.context.n_ctx == 1024);
  CHECK(has(
      parsed.warnings,
      "LLAMA_ARG_CTX_SIZE environment variable is set, but will be overwritten by command line argument -c"));
  CHECK_FALSE(good({}, {{"LLAMA_ARG_MMAP", "off"}}).options.mmap);
  CHECK_FALSE(good({}, {{"LLAMA_ARG_NO_MMAP", "whatever"}}).options.mmap);
  CHECK(good({"--mmap"}, {{"LLAMA_ARG_MMAP", "off"}}).options.mmap);
  CHECK(parse({}, {{"LLAMA_ARG_MODEL", "e.gguf"}})->options.model == "e.gguf");
  CHECK(bad({}, {{"LLAMA_ARG_MMAP", "perhaps"}}).find("LLAMA_ARG_MMAP") != std::string::npos);
  CHECK(bad({}, {{"LLAMA_ARG_PORT", "x"}}).find("'x' is not a number") != std::string::npos);
}

TEST_CASE("API keys come from the flag, a file or the environment, and never into messages") {
  CHECK(good({"--api-key", "one,two"}).options.api_keys == std::vector<std::string>{"one", "two"});
  CHECK(good({}, {{"LLAMA_API_KEY", "env"}}).options.api_keys == std::vector<std::string>{"env"});
  auto both = good({"--api-key", "secret1"}, {{"LLAMA_API_KEY", "secret2"}});
  CHECK(both.options.api_keys == std::vector<std::string>{"secret1"});
  CHECK_FALSE(has(both.warnings, "secret"));
  std::string path = std::string(AR_BIN_DIR) + "/../options_test.keys";
  std::ofstream(path) << "a\r\n\n \t\n\tb c \t\r\n\n\n";
  CHECK(good({"--api-key-file", path}).options.api_keys == std::vector<std::string>{"a", "b c"});
  std::ofstream(path) << "\xef\xbb\xbfmarked\n";
  CHECK(good({"--api-key-file", path}).options.api_keys == std::vector<std::string>{"marked"});
  std::ofstream(path) << "fine\ns3cr\x01t\n";
  const std::string told = bad({"--api-key-file", path});
  CHECK(told.find("key 2 holds a control character") != std::string::npos);
  CHECK(told.find("s3cr") == std::string::npos);
  std::ofstream(path) << " \n\t\r\n";
  CHECK(bad({"--api-key", "k", "--api-key-file", path}).find("no key given") != std::string::npos);
  std::remove(path.c_str());
  CHECK(bad({"--api-key-file", path}).find("options_test.keys") != std::string::npos);
}

TEST_CASE("chat flags: the template, and how much thinking") {
  CHECK_FALSE(good({}).options.chat.chat_template.has_value());
  CHECK(good({"--chat-template", "qwen3"}).options.chat.chat_template->family().name == "qwen3");
  CHECK(good({"--jinja", "--chat-template", "{{ '<|im_start|>' }}"})
            .options.chat.chat_template->family()
            .name == "chatml");
  CHECK(bad({"--chat-template", "qwen33"}).find("did you mean qwen3?") != std::string::npos);
  CHECK(bad({"--chat-template", "{{ x }}"}).find("it runs no Jinja") != std::string::npos);
  const std::string path = std::string(AR_BIN_DIR) + "/../options_test.jinja";
  std::ofstream(path) << "{{ '<start_of_turn>' }} | trim";
  CHECK(good({"--chat-template-file", path}).options.chat.chat_template->family().name == "gemma");
  std::remove(path.c_str());
  CHECK(bad({"--chat-template-file", path}).find("options_test.jinja") != std::string::npos);
  CHECK(has(good({"--jinja"}).warnings, "--jinja is ignored"));
  CHECK(has(good({"--no-jinja"}).warnings, "--no-jinja is ignored"));

  const auto defaults = good({}).options.chat.reasoning;
  CHECK((defaults.thinking && defaults.split && defaults.budget == -1));
  const auto set = good({"--reasoning-format", "none", "-rea", "off", "--reasoning-budget", "64",
                         "--reasoning-budget-message", "Stop."})
                       .options.chat.reasoning;
  CHECK_FALSE(set.split);
  CHECK_FALSE(set.thinking);
  CHECK(set.budget == 64);
  CHECK(set.budget_message == "Stop.");
  CHECK(good({}, {{"LLAMA_ARG_THINK_BUDGET", "0"}}).options.chat.reasoning.budget == 0);
  CHECK(bad({"--reasoning-budget", "-2"}).find("-2 is not between -1 and") != std::string::npos);
  CHECK(bad({"--reasoning-format", "x"}).find("Unknown reasoning format: x") != std::string::npos);
  CHECK(bad({"--reasoning", "perhaps"}).find("one of on, off, auto") != std::string::npos);
  CHECK_FALSE(
      good({"--chat-template-kwargs", R"({"enable_thinking": false})"}).options.chat.reasoning.thinking);
  CHECK(has(good({"--chat-template-kwargs", R"({"x": 1})"}).warnings, "'x' is ignored"));
  CHECK(bad({"--chat-template-kwargs", "{"}).find("must be a JSON object") != std::string::npos);
  CHECK(bad({"--chat-template-kwargs", R"({"enable_thinking": 1})"}).find("true or false") !=
        std::string::npos);
  CHECK(has(good({"--reasoning-effort", "high"}).warnings, "--reasoning-effort is ignored"));
  CHECK(good({"--reasoning-effort", "default"}).warnings.empty());
}

TEST_CASE("load modes set both switches") {
  auto both = good({"--load-mode", "mmap+mlock"}).options;
  CHECK((both.mmap && both.mlock));
  auto none = good({"-lm", "none"}).options;
  CHECK((!none.mmap && !none.mlock));
  CHECK(bad({"-lm", "dio"}).find("none of") != std::string::npos);
}

TEST_CASE("--help prints every flag with its default and environment") {
  std::string help = engine::server_help();
  for (const char* part : {"-c, --ctx-size N", "(default: 2048)", "(env: LLAMA_ARG_CACHE_TYPE_K)",
                           "--mmap, --no-mmap", "tbq4_0"}) {
    CHECK_MESSAGE(help.find(part) != std::string::npos, part);
  }
}
