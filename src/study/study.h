#pragma once
// A study as its space file describes it: plain options with defaults. space_file.cc fills it, validate()
// checks it.

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "probes/curve.h"
#include "probes/needle.h"
#include "probes/prompt_losses.h"
#include "probes/quality.h"
#include "probes/speed.h"
#include "search/space.h"
#include "src/base/error.h"

namespace study {

// kOpenAi: any command that serves /v1 (vllm, sglang, trtllm-serve). kUrl: a server that is already running.
enum class BackendKind { kTbqServer, kLlamaServer, kOpenAi, kUrl };
// kAuto: change a running server in place where it offers that. kNever: a fresh process for each trial.
enum class Reuse { kAuto, kNever };

struct AxisBinding {  // how an axis reaches the server when the backend's own table does not know it
  std::string flag, env;
};

struct BackendOptions {
  BackendKind kind = BackendKind::kTbqServer;
  std::string binary;      // default: beside autoresearch, then PATH
  std::string url;         // kUrl: "http://127.0.0.1:8080"
  std::string ready_path;  // kOpenAi: answers 200 once it is ready; "" = /v1/models
  Reuse reuse = Reuse::kAuto;
  std::vector<std::string> args;
  std::map<std::string, std::string> env;
  std::string api_key_env;  // name of the variable that holds the key, never the key
  double load_timeout_s = 120;
  double load_stall_s =
      120;  // no sign of life for so long while loading: hung. Not below load_timeout_s: off
  double load_estimate_s = 0;  // what a load usually takes, for `plan`; 0 = half of load_timeout_s
  double stop_grace_s = 2;
};

// maximize: lexicographic list of metrics or expressions; subject_to: expressions that must hold.
struct Objective {
  std::vector<search::Expression> maximize;
  bool pareto =
      false;  // written as `pareto:`: its entries are of equal rank, the search looks for their front
  std::vector<search::Expression> subject_to;
  std::vector<std::string> quality_not_worse_than;  // reference cache types of "quality not_worse_than f16"
};

struct ProbeOptions {
  bool quality = true, speed = true, needle = true, half_context = false;
  std::string quality_suite;  // path of the suite
  std::vector<probes::QualityItem> quality_items;
  double quality_margin = 0.05;  // "not worse" = at most this share of items lost
  probes::QualityOptions quality_options;
  probes::SpeedOptions speed_options;
  probes::NeedleOptions needle_options;
  probes::CurveOptions curve;  // off without depths; its speed is speed_options
  probes::CurveInputs curve_inputs;
  bool perplexity = false;
  std::string perplexity_corpus;            // path of the text
  probes::PromptLossOptions prompt_losses;  // its beginning, as much as is asked for
  double perplexity_margin = 0.02;          // a larger ratio to the default's perplexity is worse
  double request_timeout_s = 120, stall_timeout_s = 60;
  double min_headroom_gib = 0.25;  // the guard's floor
};

// What a language model is asked at which price, as far as the driver knows it.
struct LlmSetup {
  std::string provider, url, model;  // url "": the provider's own; model "": the server's
  double max_tokens = 2048;          // of one answer; as autoresearch-llm's own default
  double usd_per_mtok_in = 0, usd_per_mtok_out = 0;
};

// A program that proposes some of the trials (search/README.md, "Plugins").
struct PluginSetup {
  std::string name;               // "exec" or "llm": the proposer of its trials
  std::vector<std::string> argv;  // no shell
  std::string key_env;            // variable that holds the program's key; "" = none is known
  bool key_needed = false;
  std::optional<LlmSetup> llm;  // of "llm"
  double timeout_s = 60;        // of one exchange
  double share = 0.3;           // of the trials, at most
  // Of the time that trials have taken so far, for all exchanges; those that come to nothing may take 1%, if this is
  // more. And so many seconds in any case.
  double time_share = 0.01, grace_s = 0;
  double least_s = 0.05;  // nobody is asked with less time than this
};

struct SearchOptions {
  std::string strategy = "two-phase";  // with a plugin: what decides wherever the plugin does not
  std::optional<PluginSetup> plugin;
  uint64_t seed = 1;
  double budget_s = 0;  // 0 = none
  std::string until;    // "07:00" local time, "" = none
  int max_trials = 60;
  int repeats = 1;       // launches of each configuration that ran, those beyond the first after the search
  int anchor_every = 8;  // the default again after so many trials, to see noise and drift; 0 = never
};

struct Study {
  std::string name, path;  // path of the space file
  std::string service;     // a systemd user unit that holds the memory: stopped first, restored on every exit
  std::string model;       // path, ${VARIABLES} expanded
  BackendOptions backend;
  search::Space space;
  std::map<std::string, AxisBinding> bindings;  // by axis name
  Objective objective;
  SearchOptions search;
  ProbeOptions probes;
  std::string text;  // the file as read, kept in the journal's header
};

// Every error of the file at once, each "file:line:column: what is wrong; what to write instead".
struct SpaceFileErrors {
  std::vector<base::Error> errors;
  std::string to_string() const;  // one line each
};

// kRecorded: the text is a journal's. Rules of taste that have come since (a study's name, how many entries a front has)
// are not held against it, or a study that was begun before could not be resumed.
enum class SpaceOrigin { kFile, kRecorded };

// Parses a space file's text. `where` is the path shown; suites and model paths are relative to its directory
// or, where nothing lies there, to the current directory. Returns the study, or every error found.
std::variant<Study, SpaceFileErrors> parse_space_file(std::string_view text, const std::string& where,
                                                      SpaceOrigin origin = SpaceOrigin::kFile);
std::variant<Study, SpaceFileErrors> load_space_file(const std::string& path);

}  // namespace study
