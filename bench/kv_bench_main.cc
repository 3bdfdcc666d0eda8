// Decode attention over every pair of KV types: is any mixed pair slower than the slower of its two symmetric pairs?
// One KV head on one thread, pairs interleaved. First, each pair must give what its stored rows say.
#include <fmt/format.h>
#include <time.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <random>

#include "bench/study_runs.h"
#include "kernels/dots.h"
#include "kernels/isa.h"
#include "src/base/stats.h"
#include "src/engine/arena.h"
#include "src/engine/cpu_attention.h"

namespace {

using engine::KvLayer;
using kernels::kPageTokens;
using kernels::KvFormat;

constexpr int kHeadDim = 128;
constexpr double kTolerance = 1.05;

// Value i of row `row` of [rows x kHeadDim].
constexpr size_t value_at(int row, int i) {
  return static_cast<size_t>(row) * kHeadDim + static_cast<size_t>(i);
}

struct Options {
  std::vector<int> depths = {4096, 16384};
  std::vector<int> groups = {4, 6};
  std::vector<std::string> types;
  int rounds = 31, placements = 3;
  bool rotate = true, rounded = true;
  std::string isa, dots, out;
};

// A cache of one head, filled by copies of a page of Gaussian rows, and room to attend over it.
class Pair {
 public:
  Pair(const KvFormat& k, const KvFormat& v, int tokens, const Options& options)
      : layer_{&k,
               &v,
               1,
               kHeadDim,
               kHeadDim,
               1,
               options.rotate && k.better_rotated && !k.rotated,
               options.rotate && v.better_rotated && !v.rotated,
               options.rounded} {
    plan_.n_pages = plan_.seq_pages = tokens / kPageTokens;
    plan_.layers = {layer_};
  }
  uint64_t total_bytes() const { return engine::KvArena(plan_, 0, 0, nullptr).bytes(); }

  // `base`: room for total_bytes().
  void fill(std::byte* base) {
    arena_ = engine::KvArena(plan_, 0, 0, base);
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    float key[kHeadDim], value[kHeadDim];
    for (int t = 0; t < kPageTokens; ++t) {
      std::ranges::generate(key, [&] { return normal(random); });
      std::ranges::generate(value, [&] { return normal(random); });
      engine::store_row(layer_, 0, key, value, arena_.k(0, 0, 0), arena_.v(0, 0, 0), t);
    }
    pages_.clear();
    for (int page = 0; page < plan_.n_pages; ++page) {
      pages_.push_back(page);
      std::ranges::copy(arena_.page(0, 0), arena_.page(0, page).begin());
    }
  }

  // Exact scores, or those the options ask for.
  void round_scores(bool rounded) { layer_.rounded_scores = rounded; }
  const KvFormat& k() const { return *layer_.k; }
  const KvFormat& v() const { return *layer_.v; }
  double bytes(int depth) const {
    return static_cast<double>(arena_.page(0, 0).size()) * depth / kPageTokens;
  }

  // out [group x kHeadDim]
  void attend(const float* query, int group, int depth, float* out) {
    layer_.group = group;
    prepared_.resize(value_at(group, 0));
    scores_.resize(static_cast<size_t>(group) * engine::kChunkTokens);
    sums_.resize(2 * value_at(group, 0) + 4 * static_cast<size_t>(group));
    const std::vector<int> visible(static_cast<size_t>(group), depth);
    engine::prepare_queries(layer_, query, int64_t{group} * kHeadDim, 1, prepared_.data());
    const auto partial = [&](float* at) { return engine::Partial{at, at + group, at + 2 * group}; };
    const engine::Partial total = partial(sums_.data()), chunk = partial(sums_.data() + sums_.size() / 2);
    std::fill_n(total.max, group, -std::numeric_limits<float>::infinity());
    std::fill_n(total.sum, group * (kHeadDim + 1), 0.0F);
    for (int at = 0; at < depth; at += engine::kChunkTokens) {
      engine::attend_chunk({&arena_, &layer_, 0, 0, pages_}, at / engine::kChunkTokens, prepared_.data(),
                           group, visible.data(), scores_.data(), chunk);
      engine::merge(total, chunk, group, kHeadDim);
    }
    for (int i = 0; i < group; ++i) {
      engine::finish(layer_, 0, total, i, out + i * kHeadDim);
    }
  }

  // The largest difference from attention in double over the rows of the page all pages are copies of.
  double error(const float* query, int group, int depth) {
    std::vector<float> keys(kPageTokens * kHeadDim), values(keys.size());
    k().load_rows(arena_.k(0, 0, 0), kHeadDim, 0, kPageTokens, keys.data());
    v().load_rows(arena_.v(0, 0, 0), kHeadDim, 0, kPageTokens, values.data());
    for (int t = 0; t < kPageTokens; ++t) {
      if (layer_.k_rotated()) {
        kernels::unrotate_head(keys.data() + t * kHeadDim, kHeadDim);
      }
      if (layer_.v_rotated()) {
        kernels::unrotate_head(values.data() + t * kHeadDim, kHeadDim);
      }
    }
    std::vector<float> got(value_at(group, 0));
    attend(query, group, depth, got.data());
    double worst = 0;
    for (int q = 0; q < group; ++q) {
      double want[kHeadDim] = {}, sum = 0;
      for (int t = 0; t < kPageTokens; ++t) {
        double dot = 0;
        for (int i = 0; i < kHeadDim; ++i) {
          dot += double{query[q * kHeadDim + i]} * keys[value_at(t, i)];
        }
        const double weight = std::exp(dot / std::sqrt(kHeadDim));
        sum += weight;
        for (int i = 0; i < kHeadDim; ++i) {
          want[i] += weight * values[value_at(t, i)];
        }
      }
      for (int i = 0; i < kHeadDim; ++i) {
        const double difference = std::abs(got[value_at(q, i)] - want[i] / sum);
        worst = difference <= worst ? worst : difference;  // what is no number becomes the worst
      }
    }
    return worst;
  }

 private:
  KvLayer layer_;
  engine::KvPlan plan_;
  engine::KvArena arena_;
  std::vector<int> pages_;
  std::vector<float> prepared_, scores_, sums_;
};

// Puts the pairs into the arena, the first at `first` of the order: where memory lies is worth more than a tenth.
void place(std::vector<Pair>& pairs, size_t first, std::byte* memory) {
  for (size_t i = 0; i < pairs.size(); ++i) {
    Pair& pair = pairs[(first + i) % pairs.size()];
    pair.fill(memory);
    memory += pair.total_bytes();
  }
}

double cpu_s() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// One table; the number of mixed pairs that are too slow.
int measure(std::vector<Pair>& pairs, size_t n_types, int depth, int group, const Options& options,
            std::byte* memory, bench::Report& report) {
  std::mt19937 random(9);
  std::normal_distribution<float> normal;
  std::vector<float> query(value_at(group, 0)), out(query.size());
  std::ranges::generate(query, [&] { return normal(random); });
  place(pairs, 0, memory);
  for (Pair& pair : pairs) {
    for (const bool rounded : {false, options.rounded}) {
      pair.round_scores(rounded);
      const double error = pair.error(query.data(), group, depth);
      if (!(error < (rounded ? 5e-3 : 1e-4))) {
        fmt::print(stderr, "kv-bench: {}/{} is {} off its own rows; nothing is timed\n", pair.k().name,
                   pair.v().name, error);
        return -1;
      }
    }
  }
  std::vector<std::vector<double>> seconds(pairs.size());
  for (int placement = 0; placement < options.placements; ++placement) {
    place(pairs, pairs.size() * static_cast<size_t>(placement) / static_cast<size_t>(options.placements),
          memory);
    for (int round = -1; round < options.rounds; ++round) {
      for (size_t i = 0; i < pairs.size(); ++i) {
        const double begin = cpu_s();
        pairs[i].attend(query.data(), group, depth, out.data());
        if (round >= 0) {
          seconds[i].push_back(cpu_s() - begin);
        }
      }
    }
  }
  const auto median = [&](size_t k, size_t v) { return base::median(seconds[k * n_types + v]); };
  double f16 = 0;
  for (size_t i = 0; i < n_types; ++i) {
    f16 = pairs[i * n_types].k().name == "f16" ? median(i, i) : f16;
  }
  report.line(fmt::format("\n## {} tokens, {} queries per KV head\n", depth, group));
  report.line(
      "Time of a pair, in that of f16/f16; keys downward, values across. Last: microseconds and GB/s of KV "
      "bytes of the type with itself.\n");
  std::string head = "| |", rule = "|---|";
  for (size_t v = 0; v < n_types; ++v) {
    head += fmt::format(" {} |", pairs[v].v().name);
    rule += "---|";
  }
  report.line(head + " us | GB/s |");
  report.line(rule + "---|---|");
  int n_slow = 0;
  double worst = 0;
  std::string slow, worst_pair;
  for (size_t k = 0; k < n_types; ++k) {
    std::string row = fmt::format("| {} |", pairs[k * n_types].k().name);
    for (size_t v = 0; v < n_types; ++v) {
      const double mine = median(k, v), bound = std::max(median(k, k), median(v, v));
      row += fmt::format(" {:.2f} |", mine / f16);
      const std::string name = fmt::format("{}/{}", pairs[k * n_types].k().name, pairs[v].v().name);
      if (k != v && mine / bound > worst) {
        worst = mine / bound;
        worst_pair = name;
      }
      if (mine > kTolerance * bound) {
        ++n_slow;
        slow += fmt::format("{}{} {:.3f}", slow.empty() ? "" : ", ", name, mine / bound);
      }
    }
    const double own = median(k, k);
    report.line(
        row + fmt::format(" {:.0f} | {:.1f} |", 1e6 * own, pairs[k * n_types + k].bytes(depth) / own / 1e9));
  }
  report.line(fmt::format("\nSlowest mixed pair against the slower of its two symmetric ones: {:.3f} ({}).{}",
                          worst, worst_pair, slow.empty() ? "" : " Beyond 1.05: " + slow + "."));
  return n_slow;
}

int run(const Options& options, int argc, char** argv) {
  std::vector<const KvFormat*> formats;
  for (const KvFormat& format : kernels::kv_formats()) {
    if (options.types.empty() || format.name == "f16" ||
        std::ranges::find(options.types, format.name) != options.types.end()) {
      formats.push_back(&format);
    }
  }
  bench::Report report("kv-bench: decode attention over every pair of KV types", argc, argv);
  report.line(
      fmt::format("{}, one thread, one KV head of {}, {} rounds interleaved in each of {} placements in "
                  "memory, medians of the thread's own time.",
                  options.rounded ? fmt::format("{}, scores {}", kernels::float_isa(), kernels::dots_isa())
                                  : fmt::format("{}, exact scores", kernels::float_isa()),
                  kHeadDim, options.rounds, options.placements));
  std::vector<Pair> pairs;
  uint64_t bytes = 0;
  for (const KvFormat* k : formats) {
    for (const KvFormat* v : formats) {
      pairs.emplace_back(*k, *v, std::ranges::max(options.depths), options);
      bytes += pairs.back().total_bytes();
    }
  }
  // One arena for all, as a server has one for its layers: of small ones, how much lies in huge pages is chance.
  const auto memory = engine::Arena::allocate(bytes, "KV cache");
  if (!memory) {
    fmt::print(stderr, "kv-bench: {}\n", memory.failure().to_string());
    return 1;
  }
  int n_slow = 0;
  for (const int depth : options.depths) {
    for (const int group : options.groups) {
      const int here = measure(pairs, formats.size(), depth, group, options, memory->data(), report);
      if (here < 0) {
        return 1;
      }
      n_slow += here;
    }
  }
  return report.save(options.out) && n_slow == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"decode attention over every pair of KV types; exit code 1 where a mixed pair is too slow"};
  app.add_option("--depth", options.depths, "tokens of context, multiples of 512")
      ->check(CLI::Range(512, 1 << 20) & CLI::Validator(
                                             [](const std::string& text) {
                                               const bool whole =
                                                   std::atoll(text.c_str()) % engine::kChunkTokens == 0;
                                               return whole ? "" : "must be a multiple of 512";
                                             },
                                             "", "whole chunks"));
  app.add_option("--group", options.groups, "query heads per KV head")->check(CLI::Range(1, 64));
  app.add_option("--types", options.types, "only these, beside f16")->check([](const std::string& name) {
    return kernels::find_kv_format(name) != nullptr ? ""
                                                    : fmt::format("one of {}", kernels::kv_format_names());
  });
  app.add_option("--rounds", options.rounds, "rounds, each of all pairs")->check(CLI::Range(1, 10000));
  app.add_option("--placements", options.placements, "how often the pairs change places in memory")
      ->check(CLI::Range(1, 100));
  app.add_option("--isa", options.isa, "force an instruction set")->check([](const std::string& name) {
    return kernels::force_float_isa(name) ? "" : "this machine cannot run " + name;
  });
  app.add_option("--dots", options.dots, "force an instruction set for rounded scores")
      ->check([](const std::string& name) {
        return kernels::force_dots_isa(name) ? "" : "this machine cannot run " + name;
      });
  app.add_flag("!--exact", options.rounded, "exact scores: what --activations f32 has");
  app.add_flag("!--no-rotate", options.rotate, "do not rotate rows of types that are better rotated");
  app.add_option("--out", options.out, "write the results there, such as results/kv-bench.md");
  CLI11_PARSE(app, argc, argv);
  return run(options, argc, argv);
}
