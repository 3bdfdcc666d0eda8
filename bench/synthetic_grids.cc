#include "bench/synthetic_grids.h"

#include <cmath>
#include <functional>

#include "search/axis_facts.h"
#include "search/grid.h"

namespace bench {
namespace {

using search::Config;
using search::Outcome;
using search::Space;

search::Axis numbers(std::string name, const std::vector<int64_t>& values, size_t default_index) {
  search::Axis axis;
  axis.name = std::move(name);
  axis.values.assign(values.begin(), values.end());
  axis.default_index = default_index;
  return axis;
}

search::Axis names(std::string name, const std::vector<std::string>& values) {
  search::Axis axis;
  axis.name = std::move(name);
  axis.values.assign(values.begin(), values.end());
  axis.ordered = false;
  return axis;
}

class Reader {
 public:
  Reader(const Space& space, const Config& config) : space_(space), config_(config) {}
  double number(std::string_view axis) const {
    return static_cast<double>(std::get<int64_t>(config_[space_.index_of(axis)]));
  }
  std::string text(std::string_view axis) const { return search::to_string(config_[space_.index_of(axis)]); }
  double bits(std::string_view axis) const {
    return search::memory_demand(axis, config_[space_.index_of(axis)]).value();
  }

 private:
  const Space& space_;
  const Config& config_;
};

search::RecordedGrid record(const Space& space, const std::function<Outcome(const Reader&)>& server,
                            const std::vector<bool>& noisy, bool pareto = false) {
  search::RecordedGrid grid(space, noisy, pareto);
  for (uint64_t i = 0; i < static_cast<uint64_t>(space.grid_size()); ++i) {
    const Config config = space.canonical(search::grid_point(space, i));
    if (space.violated(config).empty() && grid.find(config) == nullptr) {
      grid.add(config, server(Reader(space, config)));
    }
  }
  grid.finish();
  return grid;
}

Outcome measured(std::vector<double> objective) {
  Outcome outcome;
  outcome.ok = outcome.feasible = true;
  outcome.objective = std::move(objective);
  return outcome;
}

Outcome too_large() {
  Outcome outcome;
  outcome.out_of_memory = true;
  return outcome;
}

const std::vector<std::string> kTypes = {"f16", "q8_0", "q4_0", "tbq4_0"};

// Highest at `at` (in doublings), falling by `per` for the first doubling away from it.
double hill(double value, double at, double per) {
  const double away = std::log2(value / at);
  return std::exp(-per * away * away);
}

}  // namespace

NamedGrid interaction_grid() {
  Space space;
  space.axes = {names("cache_type_k", kTypes), names("cache_type_v", kTypes),
                numbers("n_threads", {1, 2, 4, 8}, 1), numbers("n_ubatch", {32, 64, 128, 256, 512}, 1)};
  auto server = [](const Reader& r) {
    // One kernel per pair: a mixed one falls back.
    const std::string k = r.text("cache_type_k"), v = r.text("cache_type_v");
    double tps = k == v ? (k == "f16" ? 1 : k == "q8_0" ? 1.06 : k == "q4_0" ? 1.12 : 1.3) : 0.82;
    // Threads wait for one another: worth it with rows enough for each.
    const double rows = r.number("n_ubatch") / r.number("n_threads");
    tps *= std::pow(r.number("n_threads"), 0.25) * hill(rows, 48, 0.045);
    return measured({40 * tps});
  };
  return {"interaction", "types pay in equal pairs alone, threads with micro-batches alone",
          record(space, server, {true})};
}

NamedGrid infeasible_grid() {
  Space space;
  space.axes = {numbers("ctx_size", {2048, 4096, 8192, 16384, 32768}, 1), names("cache_type_k", kTypes),
                names("cache_type_v", kTypes), numbers("parallel", {1, 2, 4}, 0),
                numbers("n_threads", {2, 4, 8}, 1)};
  auto server = [](const Reader& r) {
    const double mib = r.number("ctx_size") * r.number("parallel") *
                       (r.bits("cache_type_k") + r.bits("cache_type_v")) * 1024 / 8 / (1 << 20);
    if (mib > 48) {
      return too_large();
    }
    const std::string k = r.text("cache_type_k"), v = r.text("cache_type_v");
    double tps = 30 * std::pow(r.number("parallel"), 0.4) * (r.number("n_threads") == 8 ? 1.08 : 1);
    tps *= 1 - 0.03 * std::log2(r.number("ctx_size") / 2048) * (r.bits("cache_type_k") / 16 + 0.2);
    tps *= k == v ? 1 : 0.93;
    Outcome outcome = measured({r.number("ctx_size"), tps});
    outcome.feasible = k != "q4_0" && tps >= 24;
    return outcome;
  };
  return {"infeasible", "memory and answers forbid much; the context counts first",
          record(space, server, {false, true})};
}

NamedGrid cliff_grid() {
  Space space;
  space.axes = {numbers("n_threads", {1, 2, 4, 6, 8, 12}, 1),
                numbers("n_batch", {128, 256, 512, 1024, 2048}, 2),
                numbers("n_ubatch", {32, 64, 128, 256, 512, 1024}, 1), names("flash_attn", {"on", "off"})};
  space.constraints = {*search::Expression::parse("n_ubatch <= n_batch")};
  auto server = [](const Reader& r) {
    const double threads = r.number("n_threads"), rows = r.number("n_ubatch");
    double tps = 100 * std::pow(std::min(threads, 8.0), 0.6);
    tps *= threads > 8 ? 0.35 : 1;                                    // more than there are cores
    tps *= std::pow(rows, 0.15) * (rows * threads > 2048 ? 0.5 : 1);  // the cache is full
    tps *= r.text("flash_attn") == "off" ? (rows > 128 ? 0.8 : 1.04) : 1;
    tps *= 1 - 0.01 * std::log2(r.number("n_batch") / rows);
    return measured({tps});
  };
  return {"cliff", "the peak lies beside an edge", record(space, server, {true})};
}

NamedGrid wide_grid() {
  Space space;
  space.axes = {names("cache_type_k", kTypes),
                names("cache_type_v", kTypes),
                numbers("n_threads", {1, 2, 4, 6, 8}, 2),
                numbers("n_ubatch", {64, 128, 256, 512}, 3),
                names("spec", {"none", "ngram"}),
                numbers("n_draft", {2, 4, 8, 16}, 1),
                names("numa", {"disabled", "distribute", "isolate"}),
                names("mmap", {"on", "off"})};
  space.axes[5].active_when = *search::Expression::parse("spec == ngram");
  auto server = [](const Reader& r) {
    const std::string k = r.text("cache_type_k"), v = r.text("cache_type_v");
    double tps = k == v ? (k == "tbq4_0" ? 1.12 : 1) : 0.9;
    tps *= hill(r.number("n_threads"), 6, 0.12) * hill(r.number("n_ubatch"), 128, 0.02);
    if (r.text("spec") == "ngram") {
      tps *= 1.18 * hill(r.number("n_draft"), 8, 0.05) * (r.number("n_threads") > 4 ? 1 : 0.85);
    }
    tps *= r.text("numa") == "distribute" ? 1.03 : r.text("numa") == "isolate" ? 0.9 : 1;
    tps *= r.text("mmap") == "off" ? 1.01 : 1;
    Outcome outcome = measured({24 * tps});
    outcome.feasible = !(r.text("spec") == "ngram" && r.number("n_draft") > 8);
    return outcome;
  };
  return {"wide", "eight axes, one conditional", record(space, server, {true})};
}

NamedGrid pareto_grid() {
  Space space;
  space.axes = {numbers("n_threads", {1, 2, 4, 8}, 1), numbers("n_threads_batch", {1, 2, 4, 8}, 1),
                numbers("n_ubatch", {32, 64, 128, 256, 512}, 1), names("cache_type_k", kTypes)};
  auto server = [](const Reader& r) {
    const std::string k = r.text("cache_type_k");
    // Types that are quick to read are slow to write; batch threads take cores from decode.
    const double decode = 30 * std::pow(r.number("n_threads"), 0.3) *
                          std::pow(16 / r.bits("cache_type_k"), 0.12) *
                          std::pow(r.number("n_threads_batch"), -0.08) * hill(r.number("n_ubatch"), 64, 0.01);
    const double prefill = 200 * std::pow(r.number("n_threads_batch"), 0.5) *
                           (k == "f16"    ? 1
                            : k == "q8_0" ? 0.93
                                          : 0.8) *
                           hill(r.number("n_ubatch"), 256, 0.03) * (r.number("n_threads") == 8 ? 0.92 : 1);
    return measured({decode, prefill});
  };
  return {"pareto", "decode against prefill", record(space, server, {true, true}, true)};
}

std::vector<NamedGrid> synthetic_grids() {
  std::vector<NamedGrid> grids;
  grids.push_back(interaction_grid());
  grids.push_back(infeasible_grid());
  grids.push_back(cliff_grid());
  grids.push_back(wide_grid());
  grids.push_back(pareto_grid());
  return grids;
}

}  // namespace bench
