#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "src/engine/arena.h"
#include "src/engine/cpu_attention.h"

using engine::KvLayer;
using kernels::KvFormat;

namespace {

constexpr int kTokens = 150;            // two pages, the second not full
constexpr int kPages[] = {1, 0};        // as a fragmented table hands them out
constexpr int kVisible[] = {113, 150};  // of the two query rows
constexpr int kMaxGroup = 6;

// What a format may cost as K (V f32) and as V (K f32): rms error of attention's output over its rms, for Gaussian rows
// with outliers.
struct Cost {
  double k, v;
};
Cost cost_of(std::string_view name) {
  static const std::map<std::string_view, Cost> kCosts = {
      // about 1.4 times what it is
      {"f32", {1e-6, 1e-6}},    {"f16", {6e-4, 4e-4}},    {"bf16", {5e-3, 3e-3}},   {"q8_0", {0.02, 0.012}},
      {"q5_1", {0.1, 0.07}},    {"q5_0", {0.13, 0.11}},   {"q4_1", {0.26, 0.15}},   {"q4_0", {0.38, 0.18}},
      {"iq4_nl", {0.25, 0.16}}, {"tbq4_0", {0.22, 0.16}}, {"tbq3_0", {0.43, 0.28}}, {"tcq4_0", {0.2, 0.14}},
      {"tcq3_0", {0.36, 0.24}},
  };
  const auto found = kCosts.find(name);
  REQUIRE_MESSAGE(found != kCosts.end(), "no cost is stated for ", name);
  return found->second;
}

std::vector<float> gaussian(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& value : values) {
    value = normal(random);
  }
  return values;
}

// Rows [kTokens x dim] with two channels larger than the rest, as keys have them.
std::vector<float> rows_of(int dim, uint32_t seed) {
  std::vector<float> rows = gaussian(static_cast<size_t>(kTokens) * dim, seed);
  for (int t = 0; t < kTokens; ++t) {
    rows[static_cast<size_t>(t) * dim + 3] *= 4;
    rows[static_cast<size_t>(t) * dim + dim - 2] *= 4;
  }
  return rows;
}

// softmax(query * keys / sqrt(dim)) * values of the first `visible` tokens, in double.
std::vector<double> attention_ref(const float* query, const std::vector<float>& keys,
                                  const std::vector<float>& values, int dim, int visible) {
  std::vector<double> weight(static_cast<size_t>(visible)), out(static_cast<size_t>(dim));
  for (int t = 0; t < visible; ++t) {
    double dot = 0;
    for (int i = 0; i < dim; ++i) {
      dot += double{query[i]} * keys[static_cast<size_t>(t) * dim + i];
    }
    weight[static_cast<size_t>(t)] = dot / std::sqrt(dim);
  }
  const double max = *std::ranges::max_element(weight);
  double sum = 0;
  for (double& w : weight) {
    w = std::exp(w - max);
    sum += w;
  }
  for (int t = 0; t < visible; ++t) {
    for (int i = 0; i < dim; ++i) {
      out[static_cast<size_t>(i)] +=
          weight[static_cast<size_t>(t)] / sum * values[static_cast<size_t>(t) * dim + i];
    }
  }
  return out;
}

// One layer with one KV head, its means those of `head`, written through the engine.
struct Cache {
  Cache(const KvLayer& layer, const std::vector<float>& keys, const std::vector<float>& values,
        int of_head = 0, const engine::ExactPlan& copies = {})
      : head(of_head) {
    plan.n_pages = plan.seq_pages = 2;
    plan.layers = {layer};
    plan.exact = copies;
    memory = std::move(*engine::Arena::allocate(plan.bytes(), "test"));
    arena = engine::KvArena(plan, 0, 0, memory.data());
    exact = engine::ExactArena(plan, 0, 0, memory.data() + arena.bytes(), nullptr);
    seq.exact = {copies.sink_pages, 0, 1, 0};
    std::vector<float> key(static_cast<size_t>(layer.dim_k)), value(static_cast<size_t>(layer.dim_v));
    for (int t = 0; t < kTokens; ++t) {
      std::copy_n(keys.data() + static_cast<size_t>(t) * key.size(), key.size(), key.data());
      std::copy_n(values.data() + static_cast<size_t>(t) * value.size(), value.size(), value.data());
      const int page = kPages[t / kernels::kPageTokens];
      engine::store_row(layer, head, key.data(), value.data(), arena.k(0, page, 0), arena.v(0, page, 0),
                        t % kernels::kPageTokens);
      if (const int at = t / kernels::kPageTokens; copies.copies(at)) {
        engine::store_copy(layer, key.data(), value.data(), exact.k(0, seq, at, 0), exact.v(0, seq, at, 0),
                           t % kernels::kPageTokens);
      }
    }
  }
  // The copy's row of a side, in the model's basis; zeros where there is none.
  std::vector<float> read_copy(bool of_k, int t) const {
    const KvLayer& layer = plan.layers[0];
    const KvFormat* format = of_k ? layer.exact_k : layer.exact_v;
    const int dim = of_k ? layer.dim_k : layer.dim_v, at = t / kernels::kPageTokens;
    std::vector<float> row(static_cast<size_t>(dim));
    if (format != nullptr && plan.exact.copies(at)) {
      format->load_rows(of_k ? exact.k(0, seq, at, 0) : exact.v(0, seq, at, 0), dim, t % kernels::kPageTokens,
                        1, row.data());
      if (of_k ? layer.k_rotated() : layer.v_rotated()) {
        kernels::unrotate_head(row.data(), dim);
      }
    }
    return row;
  }
  // All rows of a side in the model's basis, by the specification.
  std::vector<float> read(bool of_k) const {
    const KvLayer& layer = plan.layers[0];
    const KvFormat& format = of_k ? *layer.k : *layer.v;
    const int dim = of_k ? layer.dim_k : layer.dim_v;
    std::vector<float> rows(static_cast<size_t>(kTokens) * dim);
    for (int t = 0; t < kTokens; ++t) {
      float* row = rows.data() + static_cast<size_t>(t) * dim;
      format.load_rows(page(of_k, t), dim, t % kernels::kPageTokens, 1, row);
      if (of_k ? layer.k_rotated() : layer.v_rotated()) {
        kernels::unrotate_head(row, dim);
      }
    }
    return rows;
  }
  std::byte* page(bool of_k, int t) const {
    const int index = kPages[t / kernels::kPageTokens];
    return of_k ? arena.k(0, index, 0) : arena.v(0, index, 0);
  }

  int head;
  engine::KvPlan plan;
  engine::Arena memory;
  engine::KvArena arena;
  engine::ExactArena exact;
  engine::SeqRows seq;
};

// Attention of two rows of `group` queries over the cache, as CpuOps has it.
std::vector<float> attend(const Cache& cache, int group, const std::vector<float>& query) {
  KvLayer layer = cache.plan.layers[0];
  layer.group = group;
  const int n = 2 * group, dim_k = layer.dim_k, dim_v = layer.dim_v;
  std::vector<float> prepared(static_cast<size_t>(n) * dim_k),
      scores(static_cast<size_t>(n) * engine::kChunkTokens), numbers(4 * static_cast<size_t>(n)),
      acc(2 * static_cast<size_t>(n) * dim_v), out(static_cast<size_t>(n) * dim_v);
  engine::prepare_queries(layer, query.data(), int64_t{group} * dim_k, 2, prepared.data());
  std::vector<int> visible(static_cast<size_t>(n));
  for (int i = 0; i < n; ++i) {
    visible[static_cast<size_t>(i)] = kVisible[i / group];
  }
  const engine::Partial chunk{numbers.data(), numbers.data() + n, acc.data()},
      total{numbers.data() + 2 * n, numbers.data() + 3 * n, acc.data() + static_cast<size_t>(n) * dim_v};
  std::fill_n(total.max, n, -std::numeric_limits<float>::infinity());
  engine::attend_chunk({&cache.arena, &layer, 0, 0, kPages, &cache.exact, &cache.seq}, 0, prepared.data(), n,
                       visible.data(), scores.data(), chunk);
  engine::merge(total, chunk, n, dim_v);
  for (int i = 0; i < n; ++i) {
    engine::finish(layer, cache.head, total, i, out.data() + static_cast<size_t>(i) * dim_v);
  }
  return out;
}

// rms of (got - want) over rms of want.
double relative_error(const std::vector<float>& got, const std::vector<double>& want) {
  double error = 0, square = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    square += want[i] * want[i];
  }
  return std::sqrt(error / square);
}

std::vector<double> reference_of(const std::vector<float>& query, int group, const std::vector<float>& keys,
                                 const std::vector<float>& values, int dim) {
  std::vector<double> all;
  for (int i = 0; i < 2 * group; ++i) {
    const auto one =
        attention_ref(query.data() + static_cast<size_t>(i) * dim, keys, values, dim, kVisible[i / group]);
    all.insert(all.end(), one.begin(), one.end());
  }
  return all;
}

bool may_rotate(const KvFormat& format) {
  return format.group_values > 0 && !format.rotated;
}

// The rows as the fast path reads them: a weight of one on each row in turn adds exactly that row to zeros.
bool reads_exactly(const KvFormat& format, int dim, const Cache& cache, bool of_k) {
  std::vector<float> want(static_cast<size_t>(dim)), got(static_cast<size_t>(dim));
  const float one = 1;
  for (int t = 0; t < kTokens; ++t) {
    const int slot = t % kernels::kPageTokens;
    format.load_rows(cache.page(of_k, t), dim, slot, 1, want.data());
    std::ranges::fill(got, 0.0F);
    format.accumulate(cache.page(of_k, t), dim, slot, 1, &one, 1, 1, got.data());
    if (got != want) {
      return false;
    }
  }
  return true;
}

}  // namespace

TEST_CASE("every pair of KV types, head sizes and query groups: written, read back, attended") {
  std::map<std::string, Cost> worst;  // as K, as V, beside f32
  for (const int dim : {64, 80, 96, 128, 192, 256}) {
    const auto keys = rows_of(dim, 1 + dim), values = rows_of(dim, 2 + dim);
    const auto query = gaussian(static_cast<size_t>(2) * kMaxGroup * dim, 3 + dim);
    std::map<int, std::vector<double>> unquantized;
    for (const int group : {1, 4, 6}) {
      unquantized[group] = reference_of(query, group, keys, values, dim);
    }
    for (const KvFormat& k : kernels::kv_formats()) {
      for (const KvFormat& v : kernels::kv_formats()) {
        for (const bool other_basis : {false, true}) {
          if (other_basis && !may_rotate(k) && !may_rotate(v)) {
            continue;
          }
          const KvLayer layer{&k,
                              &v,
                              1,
                              dim,
                              dim,
                              1,
                              may_rotate(k) && k.better_rotated != other_basis,
                              may_rotate(v) && v.better_rotated != other_basis};
          CAPTURE(k.name);
          CAPTURE(v.name);
          CAPTURE(dim);
          CAPTURE(layer.rotate_k);
          CAPTURE(layer.rotate_v);
          const Cache cache(layer, keys, values);
          REQUIRE(reads_exactly(k, dim, cache, true));
          REQUIRE(reads_exactly(v, dim, cache, false));
          const auto stored_keys = cache.read(true), stored_values = cache.read(false);
          for (const int group : {1, 4, 6}) {
            CAPTURE(group);
            const auto got = attend(cache, group, query);
            REQUIRE(relative_error(got, reference_of(query, group, stored_keys, stored_values, dim)) < 2e-6);
            const double error = relative_error(got, unquantized[group]);
            REQUIRE(error < cost_of(k.name).k + cost_of(v.name).v);
            if (v.name == "f32") {
              worst[std::string(k.name)].k = std::max(worst[std::string(k.name)].k, error);
            }
            if (k.name == "f32") {
              worst[std::string(v.name)].v = std::max(worst[std::string(v.name)].v, error);
            }
          }
        }
      }
    }
  }
  for (const auto& [name, cost] : worst) {
    MESSAGE(name, fmt::format(": at most {:.2g} as K, {:.2g} as V", cost.k, cost.v));
  }
}

TEST_CASE("rotating keys, queries, values and output changes nothing but rounding") {
  const KvFormat* f32 = kernels::find_kv_format("f32");
  for (const int dim : {64, 80, 96, 128, 192, 256}) {
    CAPTURE(dim);
    const auto keys = rows_of(dim, 5), values = rows_of(dim, 6);
    const auto query = gaussian(static_cast<size_t>(2) * 4 * dim, 7);
    const auto want = reference_of(query, 4, keys, values, dim);
    for (const bool rotate_k : {false, true}) {
      for (const bool rotate_v : {false, true}) {
        const Cache cache({f32, f32, 1, dim, dim, 1, rotate_k, rotate_v}, keys, values);
        CHECK(relative_error(attend(cache, 4, query), want) < 2e-6);
        // Really stored in another basis.
        std::vector<float> row(static_cast<size_t>(dim));
        f32->load_rows(cache.page(true, 9), dim, 9, 1, row.data());
        CHECK((std::memcmp(row.data(), keys.data() + static_cast<size_t>(9) * dim,
                           sizeof(float) * row.size()) != 0) == rotate_k);
        f32->load_rows(cache.page(false, 9), dim, 9, 1, row.data());
        CHECK((std::memcmp(row.data(), values.data() + static_cast<size_t>(9) * dim,
                           sizeof(float) * row.size()) != 0) == rotate_v);
      }
    }
  }
}

TEST_CASE(
    "means taken from K and V change nothing but what rounding costs, and that is the less the larger they "
    "are") {
  constexpr int kHead = 1;  // the means of head 0 are others
  for (const int dim : {64, 80, 256}) {
    CAPTURE(dim);
    const auto query = gaussian(static_cast<size_t>(2) * 4 * dim, 7);
    auto k_means = gaussian(static_cast<size_t>(2) * dim, 8), v_means = gaussian(k_means.size(), 9);
    auto keys = rows_of(dim, 5), values = rows_of(dim, 6);
    for (size_t i = 0; i < keys.size(); ++i) {
      const size_t channel = static_cast<size_t>(dim) * kHead + i % static_cast<size_t>(dim);
      keys[i] += 8 * k_means[channel];
      values[i] += 8 * v_means[channel];
    }
    std::ranges::for_each(k_means, [](float& mean) { mean *= 8; });
    std::ranges::for_each(v_means, [](float& mean) { mean *= 8; });
    const auto want = reference_of(query, 4, keys, values, dim);
    const auto error = [&](const char* type, bool rotate, bool of_k, bool of_v) {
      const KvFormat* format = kernels::find_kv_format(type);
      KvLayer layer{format, format, 1, dim, dim, 1, rotate, rotate};
      layer.k_mean = of_k ? k_means.data() : nullptr;
      layer.v_mean = of_v ? v_means.data() : nullptr;
      const Cache cache(layer, keys, values, kHead);
      if (of_k && !layer.k_rotated()) {
        CHECK(std::abs(cache.read(true)[0] - (keys[0] - k_means[static_cast<size_t>(dim)])) < 1e-3);
      }
      return relative_error(attend(cache, 4, query), want);
    };
    for (const bool rotate : {false, true}) {
      for (const bool of_k : {false, true}) {
        CHECK(error("f32", rotate, of_k, true) < 2e-5);
        CHECK(error("f32", rotate, of_k, false) < 2e-5);
      }
    }
    for (const char* type : {"q8_0", "tbq4_0"}) {  // both sides matter; together about a factor of seven
      CAPTURE(type);
      const bool rotate = type[0] == 'q';
      const double plain = error(type, rotate, false, false), k_only = error(type, rotate, true, false),
                   both = error(type, rotate, true, true);
      CHECK(both * 4 < plain);
      CHECK(both < k_only);
    }
  }
}

TEST_CASE("sink and tail are read from their copies, each query's by its own position, the rest quantized") {
  const KvFormat* f16 = kernels::find_kv_format("f16");
  constexpr int kGroup = 4;
  const std::pair<const char*, const char*> pairs[] = {
      {"tbq4_0", "tbq3_0"}, {"q4_0", "q4_0"}, {"f16", "tbq3_0"}, {"tbq3_0", "f32"}};
  for (const int dim : {64, 80, 128}) {
    const auto keys = rows_of(dim, 11), values = rows_of(dim, 12);
    const auto query = gaussian(static_cast<size_t>(2) * kGroup * dim, 13);
    for (const auto& names : pairs) {
      const KvFormat &k = *kernels::find_kv_format(names.first), &v = *kernels::find_kv_format(names.second);
      for (const auto& [sink, tail] : {std::pair{0, 0}, {1, 0}, {0, 10}, {0, 40}, {4, 10}}) {
        const KvLayer layer{&k,
                            &v,
                            1,
                            dim,
                            dim,
                            1,
                            may_rotate(k),
                            may_rotate(v),
                            false,
                            nullptr,
                            nullptr,
                            k.group_values > 0 ? f16 : nullptr,
                            v.group_values > 0 ? f16 : nullptr};
        const engine::ExactPlan plan = engine::plan_exact(sink, tail, kernels::kPageTokens, 2, 1, 512);
        const Cache cache(layer, keys, values, 0, plan);
        const auto got = attend(cache, kGroup, query);
        // Row by row what each query is to read: with a tail of 10 the first reads page 0 from its copy (tokens 103 to
        // 112 are there), the second page 1 (140 to 149).
        std::vector<double> want;
        for (int i = 0; i < 2 * kGroup; ++i) {
          auto mixed_keys = cache.read(true), mixed_values = cache.read(false);
          const int visible = kVisible[i / kGroup];
          for (int t = 0; t < visible; ++t) {
            const int tail_begin = tail == 0 ? visible : std::max(0, visible - tail);
            if (t / kernels::kPageTokens < (sink > 0 ? 1 : 0) ||
                (tail > 0 && t >= tail_begin / kernels::kPageTokens * kernels::kPageTokens)) {
              const size_t at = static_cast<size_t>(t) * dim;
              if (layer.exact_k != nullptr) {
                std::ranges::copy(cache.read_copy(true, t), mixed_keys.begin() + static_cast<int64_t>(at));
              }
              if (layer.exact_v != nullptr) {
                std::ranges::copy(cache.read_copy(false, t), mixed_values.begin() + static_cast<int64_t>(at));
              }
            }
          }
          const auto one = attention_ref(query.data() + static_cast<size_t>(i) * dim, mixed_keys,
                                         mixed_values, dim, visible);
          want.insert(want.end(), one.begin(), one.end());
        }
        CAPTURE(k.name);
        CAPTURE(dim);
        const int sink_tokens = sink, tail_tokens = tail;
        CAPTURE(sink_tokens);
        CAPTURE(tail_tokens);
        CHECK(relative_error(got, want) < 2e-6);
        if (tail == 40 && k.group_values > 0 && v.group_values > 0) {  // all that both see
          CHECK(relative_error(got, reference_of(query, kGroup, keys, values, dim)) < 2e-3);
        }
      }
    }
  }
}
