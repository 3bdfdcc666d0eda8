#pragma once
// What tbq-server was asked for. One table (server_flags.h) declares each flag once. Spellings are llama-server's.

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/error.h"
#include "src/engine/chat_options.h"
#include "src/engine/context.h"
#include "src/engine/ngram_draft.h"
#include "src/engine/sampler.h"

namespace engine {

inline constexpr int kAutoParallel = 4;

struct ServerOptions {
  std::string model, alias;
  std::string host = "127.0.0.1";
  int port = 8080;                 // 0: any free port, printed once bound
  ContextOptions context;          // but for the number of sequences
  std::string named_means;         // the file that --kv-center named; the only one a request may name
  int parallel = -1;               // sequences at once; -1: kAutoParallel with one cache, as llama-server
  std::optional<bool> kv_unified;  // unset: only where the number of sequences is not given either
  SpeculationOptions speculation;
  std::string flash_attn = "auto";  // on, off, auto
  bool mmap = true, mlock = false, warmup = true, cache_prompt = true;
  bool slots = true, metrics = false;  // GET /slots and GET /metrics are served
  std::string slot_save_path;          // the directory of saved sequences; "": none are saved
  bool reconfigure = true;             // POST /reconfigure is served
  ChatOptions chat;
  SamplerParams sampling;
  int n_predict = -1;
  std::vector<std::string> api_keys;  // secrets: never logged
  int threads_http = 32;  // requests that wait at once; health, models and props have threads of their own
  int timeout_s = 3600;   // a client that neither sends nor reads; of a stream 30 at most
  int verbosity = 3;
  bool help = false, version = false;

  // What the context is opened with.
  ContextOptions context_options() const {
    ContextOptions chosen = context;
    chosen.n_seqs = parallel < 0 ? kAutoParallel : parallel;
    chosen.kv_unified = kv_unified.value_or(parallel < 0);
    return chosen;
  }
  std::string model_name() const { return alias.empty() ? model : alias; }
};

struct ParsedOptions {
  ServerOptions options;
  std::vector<std::string> warnings;  // to be logged, in order
};

// nullptr when the variable is not set.
using Environment = std::function<const char*(const char* name)>;

// Command line over environment over defaults. Errors are llama-server's lines: "invalid argument: --foo",
// "error while handling argument ...". The rules between options are checked too, unless help or version was
// asked for.
base::Result<ParsedOptions> parse_server_options(const std::vector<std::string>& args,
                                                 const Environment& environment);

// Sets one option by its flag, as a command line would. "" or why the value is refused. The rules between
// options are check_server_options'.
std::string set_server_option(ServerOptions& options, std::string_view flag, std::string_view value,
                              std::vector<std::string>& warnings);
base::Result<void> check_server_options(const ServerOptions& options);

std::string server_help();

}  // namespace engine
