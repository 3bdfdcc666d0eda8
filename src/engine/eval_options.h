#pragma once
// What tbq-eval was asked for. Flags are spelled as llama-perplexity spells them, where it has them.

#include <string>
#include <string_view>
#include <vector>

#include "src/base/error.h"
#include "src/engine/evaluation_run.h"

namespace engine {

struct EvalOptions {
  std::string model, corpus, json;  // paths; json "" = none
  std::string synthetic;            // parse_synthetic()'s, instead of model and corpus; "" = none
  std::string kv = "f16/f16,q8_0/q8_0,q4_0/q4_0,tbq4_0/tbq4_0,tbq4_0/tbq3_0,tbq3_0/tbq3_0,tcq4_0/tcq3_0";
  EvaluationOptions evaluation;  // its pairs are those of `kv`
  bool help = false, version = false;
};

// "f16/f16,q4_0,tbq4_0/tbq3_0": keys/values, or one type for both. f16/f16 is put first where it is not, since
// everything is compared with it.
base::Result<std::vector<KvPair>> parse_kv_pairs(std::string_view list);

// Errors: an unknown flag or type (with what was meant), a number out of range, no model or corpus, a model and
// a synthetic one.
base::Result<EvalOptions> parse_eval_options(const std::vector<std::string>& args);
std::string eval_help();

}  // namespace engine
