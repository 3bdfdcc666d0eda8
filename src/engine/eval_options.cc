#include "src/engine/eval_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>

#include "kernels/formats/formats.h"
#include "src/base/suggest.h"
#include "src/engine/context_plan.h"
#include "src/engine/synthetic_model.h"

namespace engine {
namespace {

// Why a value is refused; "" when it was taken.
using Why = std::string;

struct Flag {
  std::vector<std::string> names;
  std::string_view value;  // how --help calls it; "" for a switch
  std::string_view help;
  Why (*set)(EvalOptions& options, const std::string& value);
};

Why number(const std::string& text, int lo, int hi, int& out) {
  int value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, failure] = std::from_chars(text.data(), end, value);
  if (failure == std::errc::invalid_argument || stop != end) {
    return fmt::format("'{}' is not a whole number", text);
  }
  if (failure != std::errc() || value < lo || value > hi) {
    return fmt::format("{} is not between {} and {}", text, lo, hi);
  }
  out = value;
  return "";
}

const std::vector<Flag>& flags() {
  constexpr int kMax = std::numeric_limits<int>::max() / 2;
  static const std::vector<Flag> all = {
      {{"-m", "--model"},
       "FILE",
       "GGUF model",
       [](EvalOptions& o, const std::string& v) { return o.model = v, Why(); }},
      {{"-f", "--file", "--corpus"},
       "FILE",
       "text to evaluate on",
       [](EvalOptions& o, const std::string& v) { return o.corpus = v, Why(); }},
      {{"--synthetic"},
       "SHAPE",
       "instead of both, random weights in the shape of a model and random tokens, to measure speed and "
       "memory: the name of a shape below, and what is to be other (8b,n_layer=4,type=q8_0)",
       [](EvalOptions& o, const std::string& v) {
         o.synthetic = v;
         return v.empty() ? Why("names nothing") : Why();
       }},
      {{"-c", "--ctx-size", "--n-ctx"},
       "N",
       "tokens of a chunk, the second half of which is scored (default: 512)",
       [](EvalOptions& o, const std::string& v) { return number(v, 4, kMax, o.evaluation.n_ctx); }},
      {{"--chunks"},
       "N",
       "only the first N chunks; -1: all (default)",
       [](EvalOptions& o, const std::string& v) {
         Why why = number(v, -1, kMax, o.evaluation.n_chunks);
         o.evaluation.n_chunks = std::max(o.evaluation.n_chunks, 0);
         return why;
       }},
      {{"--kv"},
       "K/V,...",
       "pairs of cache types to compare with f16/f16, which comes first, or one name for both",
       [](EvalOptions& o, const std::string& v) { return o.kv = v, Why(); }},
      {{"--kv-first-last"},
       "TYPE,N",
       "the first N and the last N layers as TYPE in every pair but the reference; off (default)",
       [](EvalOptions& o, const std::string& v) {
         o.evaluation.kv_first_last = v;
         const auto edges = parse_first_last(v);
         return edges ? Why() : edges.failure().what;
       }},
      {{"--kv-center"},
       "off|on|FILE",
       "means of K and V are taken from every pair's rows but the reference's: on = measured once and kept "
       "in "
       "MODEL.kv-means; FILE = those of that file; off (default)",
       [](EvalOptions& o, const std::string& v) {
         o.evaluation.kv_center = v;
         return v.empty() ? Why("names nothing") : Why();
       }},
      {{"--kv-sink"},
       "N",
       "first tokens of a chunk whose keys and values are read in f16 from a quantized cache, up to a "
       "multiple "
       "of 128 (default: 0)",
       [](EvalOptions& o, const std::string& v) { return number(v, 0, kMax, o.evaluation.kv_sink); }},
      {{"--kv-tail"},
       "N",
       "last tokens before each query that are (default: 0)",
       [](EvalOptions& o, const std::string& v) { return number(v, 0, kMax, o.evaluation.kv_tail); }},
      {{"--json"},
       "FILE",
       "write the results there too, after every few seconds' chunks",
       [](EvalOptions& o, const std::string& v) { return o.json = v, Why(); }},
      {{"-t", "--threads"},
       "N",
       "threads; -1: one for each physical core (default)",
       [](EvalOptions& o, const std::string& v) {
         Why why = number(v, -1, 1024, o.evaluation.n_threads);
         o.evaluation.n_threads = std::max(o.evaluation.n_threads, 0);
         return why;
       }},
      {{"-ngl", "--gpu-layers", "--n-gpu-layers"},
       "N|auto|all",
       "layers on the GPU, the last ones; the output counts as one (default: auto, all where there is a GPU)",
       [](EvalOptions& o, const std::string& v) {
         int& n = o.evaluation.n_gpu_layers;
         n = v == "auto" ? kAutoLayers : kAllLayers;
         return v == "auto" || v == "all" ? Why() : number(v, kAllLayers, kMax, n);
       }},
      {{"-ub", "--ubatch-size", "--ubatch"},
       "N",
       "tokens computed together (default: 512)",
       [](EvalOptions& o, const std::string& v) { return number(v, 1, kMax, o.evaluation.n_ubatch); }},
      {{"--decode-tokens"},
       "N",
       "tokens decoded one by one at the end of each chunk, to time them; at most a quarter of it (default: "
       "32)",
       [](EvalOptions& o, const std::string& v) { return number(v, 0, kMax, o.evaluation.n_decode); }},
      {{"--repeat-decode"},
       "N",
       "how often they are (default: 1)",
       [](EvalOptions& o, const std::string& v) {
         return number(v, 1, 1000, o.evaluation.n_decode_repeats);
       }},
      {{"-h", "--help"},
       "",
       "print this and exit",
       [](EvalOptions& o, const std::string&) { return o.help = true, Why(); }},
      {{"--version"},
       "",
       "print the version and exit",
       [](EvalOptions& o, const std::string&) { return o.version = true, Why(); }},
  };
  return all;
}

base::Error unknown_flag(const std::string& name) {
  std::vector<std::string> known;
  for (const Flag& flag : flags()) {
    known.insert(known.end(), flag.names.begin(), flag.names.end());
  }
  const std::string near = base::closest(name, known);
  return base::error(name, "no such option",
                     near.empty() ? "see --help" : fmt::format("did you mean {}?", near));
}

base::Result<std::string> cache_type(std::string_view name) {
  std::vector<std::string> known;
  for (const kernels::KvFormat& format : kernels::kv_formats()) {
    known.emplace_back(format.name);
    if (format.name == name) {
      return known.back();
    }
  }
  return base::error("--kv", fmt::format("unknown cache type '{}'", name), base::did_you_mean(name, known));
}

}  // namespace

base::Result<std::vector<KvPair>> parse_kv_pairs(std::string_view list) {
  std::vector<KvPair> pairs;
  for (size_t at = 0; at <= list.size();) {
    const size_t end = std::min(list.find(',', at), list.size());
    const std::string_view one = list.substr(at, end - at);
    at = end + 1;
    const size_t slash = one.find('/');
    auto k = cache_type(one.substr(0, slash));
    if (!k) {
      return k.failure();
    }
    auto v = slash == std::string_view::npos ? k : cache_type(one.substr(slash + 1));
    if (!v) {
      return v.failure();
    }
    pairs.push_back({*std::move(k), *std::move(v)});
  }
  const auto reference = std::ranges::find(pairs, KvPair{});
  if (reference == pairs.end()) {
    pairs.insert(pairs.begin(), KvPair{});
  } else {
    std::rotate(pairs.begin(), reference, reference + 1);
  }
  return pairs;
}

base::Result<EvalOptions> parse_eval_options(const std::vector<std::string>& args) {
  EvalOptions options;
  for (size_t i = 0; i < args.size(); ++i) {
    std::string name = args[i];
    if (name.starts_with("--")) {
      std::ranges::replace(name, '_', '-');
    }
    const auto flag =
        std::ranges::find_if(flags(), [&](const Flag& f) { return std::ranges::count(f.names, name) > 0; });
    if (flag == flags().end()) {
      return unknown_flag(args[i]);
    }
    std::string value;
    if (!flag->value.empty()) {
      if (i + 1 == args.size()) {
        return base::error(name, "needs a value", fmt::format("write {} {}", name, flag->value));
      }
      value = args[++i];
    }
    if (const Why why = flag->set(options, value); !why.empty()) {
      return base::error(name, why, std::string(flag->help));
    }
  }
  if (options.help || options.version) {
    return options;
  }
  if (!options.synthetic.empty()) {
    if (auto spec = parse_synthetic(options.synthetic); !spec) {
      return spec.failure();
    }
    if (!options.model.empty() || !options.corpus.empty() || options.evaluation.kv_center != "off") {
      return base::error("--synthetic", "has no use for --model, --corpus or --kv-center",
                         "leave them out: its weights and tokens are random");
    }
    options.evaluation.n_chunks = std::max(options.evaluation.n_chunks, 1);
  } else if (options.model.empty() || options.corpus.empty()) {
    return base::error(options.model.empty() ? "--model" : "--corpus", "missing",
                       "tbq-eval --model MODEL.gguf --corpus TEXT (or --synthetic SHAPE); see --help");
  }
  auto pairs = parse_kv_pairs(options.kv);
  if (!pairs) {
    return pairs.failure();
  }
  options.evaluation.pairs = *std::move(pairs);
  return options;
}

std::string eval_help() {
  std::string out =
      "tbq-eval: what a quantized KV cache costs: perplexity, KL divergence and first choices against f16 on "
      "the same\n"
      "text, bits, memory and decode speed. usage: tbq-eval --model MODEL.gguf --corpus TEXT [options]\n\n";
  for (const Flag& flag : flags()) {
    out += fmt::format(
        "{:<40} {}\n",
        fmt::format("{}{}{}", fmt::join(flag.names, ", "), flag.value.empty() ? "" : " ", flag.value),
        flag.help);
  }
  out += "\nshapes for --synthetic:\n";
  for (const SyntheticShape& shape : synthetic_shapes()) {
    out += fmt::format("  {:<14}{}, {:.0f} GB\n", shape.name, shape.about,
                       static_cast<double>(size_of(shape.spec).weights) / 1e9);
  }
  return out + fmt::format(
                   "\ncache types: {}\nexit codes: 0 done, whatever the verdicts; 2 usage; 3 the model, the "
                   "text, the memory or the JSON file will not do; 1 any other failure\n",
                   kernels::kv_format_names());
}

}  // namespace engine
