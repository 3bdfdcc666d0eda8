// Makes the integers of a trellis (kernels/formats/tcq.h): Gaussian tiles are coded by the best path, each window's integer
// becomes the mean of the values it was chosen for, again and again, from several beginnings. Prints the best table and
// its squared error on tiles it has not seen, of the square.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "kernels/formats/tcq.h"

namespace {

constexpr int kTile = 128;
using Table = std::vector<float>;  // by window

struct Options {
  int bits = 3, starts = 60, tiles = 3000;
  uint32_t seed = 11;
};

// Gaussian tiles whose mean square is one.
std::vector<float> gaussian_tiles(int n, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> all(static_cast<size_t>(n) * kTile);
  for (size_t begin = 0; begin < all.size(); begin += kTile) {
    double square = 0.0;
    for (size_t i = begin; i < begin + kTile; ++i) {
      all[i] = normal(random);
      square += double{all[i]} * double{all[i]};
    }
    for (size_t i = begin; i < begin + kTile; ++i) {
      all[i] *= static_cast<float>(std::sqrt(kTile / square));
    }
  }
  return all;
}

void best_path(const float* x, int bits, const Table& table, std::vector<int>& windows) {
  const int states = 1 << (kernels::kTrellisWindow - bits), ways = 1 << bits;
  std::vector<float> cost(static_cast<size_t>(states), 1e30F), next(cost.size());
  std::vector<int> came(static_cast<size_t>(kTile * states));
  cost[0] = 0.0F;
  for (int i = 0; i < kTile; ++i) {
    std::fill(next.begin(), next.end(), std::numeric_limits<float>::max());
    for (int window = 0; window < kernels::kTrellisSize; ++window) {
      const float error = x[i] - table[static_cast<size_t>(window)];
      const float sum = cost[static_cast<size_t>(window % ways % states)] + error * error;
      const int state = window >> bits;
      if (sum < next[static_cast<size_t>(state)]) {
        next[static_cast<size_t>(state)] = sum;
        came[static_cast<size_t>(i) * static_cast<size_t>(states) + static_cast<size_t>(state)] = window;
      }
    }
    std::swap(cost, next);
  }
  auto state = static_cast<int>(std::min_element(cost.begin(), cost.end()) - cost.begin());
  for (int i = kTile - 1; i >= 0; --i) {
    const int window =
        came[static_cast<size_t>(i) * static_cast<size_t>(states) + static_cast<size_t>(state)];
    windows[static_cast<size_t>(i)] = window;
    state = window % ways % states;
  }
}

// Codes all tiles; the squared error with least-squares scales, of the square. With `means`: what the table becomes.
double code(const std::vector<float>& tiles, int bits, const Table& table, Table* means) {
  std::vector<double> sums(table.size()), counts(table.size());
  std::vector<int> windows(kTile);
  double error = 0.0;
  for (size_t begin = 0; begin < tiles.size(); begin += kTile) {
    best_path(tiles.data() + begin, bits, table, windows);
    double dot = 0.0, square = 0.0;
    for (size_t i = 0; i < kTile; ++i) {
      const auto window = static_cast<size_t>(windows[i]);
      const double x = tiles[begin + i], value = table[window];
      sums[window] += x;
      ++counts[window];
      dot += x * value;
      square += value * value;
    }
    error += 1.0 - dot * dot / square / kTile;
  }
  for (size_t w = 0; means != nullptr && w < table.size(); ++w) {
    if (counts[w] > 0) {
      (*means)[w] = static_cast<float>(sums[w] / counts[w]);
    }
  }
  const size_t n_tiles = tiles.size() / kTile;
  return error / static_cast<double>(n_tiles);
}

double improve(const std::vector<float>& tiles, int bits, int rounds, Table& table) {
  double error = 0.0;
  for (int round = 0; round < rounds; ++round) {
    Table means = table;
    error = code(tiles, bits, table, &means);
    table = means;
  }
  return error;
}

// Quantiles of the normal distribution in any order.
Table beginning(std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> many(static_cast<size_t>(kernels::kTrellisSize) * 500);
  std::generate(many.begin(), many.end(), [&] { return normal(random); });
  std::sort(many.begin(), many.end());
  Table table;
  for (size_t i = 250; i < many.size(); i += 500) {
    table.push_back(many[i]);
  }
  std::shuffle(table.begin(), table.end(), random);
  return table;
}

// As int8: the unit near 127 / max that loses least.
Table rounded(const std::vector<float>& tiles, int bits, const Table& table, double& unit) {
  float most = 0.0F;
  for (const float value : table) {
    most = std::max(most, std::fabs(value));
  }
  Table best = table;
  double least = std::numeric_limits<double>::max();
  constexpr int kSteps = 53;  // down to nine tenths
  for (int step = 0; step < kSteps; ++step) {
    const double of = 127.0 / most * std::pow(0.998, step);
    Table integers = table;
    for (float& value : integers) {
      value = static_cast<float>(std::nearbyint(value * of) / of);
    }
    if (const double error = code(tiles, bits, integers, nullptr); error < least) {
      least = error;
      unit = of;
      best = integers;
    }
  }
  return best;
}

void make(const Options& options) {
  std::mt19937 random(options.seed);
  const auto train = gaussian_tiles(options.tiles, random), test = gaussian_tiles(options.tiles, random);
  const std::vector<float> few(train.begin(), train.begin() + kTile * std::min(500, options.tiles));
  Table best;
  double least = std::numeric_limits<double>::max();
  for (int start = 0; start < options.starts; ++start) {
    Table table = beginning(random);
    double error = improve(few, options.bits, 15, table);
    if (error < 1.01 * least) {
      error = improve(few, options.bits, 40, table);
    }
    if (error < least) {
      least = error;
      best = table;
    }
    fmt::print(stderr, "start {}/{}: {:.5f}, best {:.5f}\n", start + 1, options.starts, error, least);
  }
  improve(train, options.bits, 60, best);
  double unit = 0.0;
  best = rounded(few, options.bits, best, unit);
  fmt::print("{} bits, error {:.5f} of the square, unit {:.1f}\n", options.bits,
             code(test, options.bits, best, nullptr), unit);
  for (size_t w = 0; w < best.size(); ++w) {
    fmt::print("{}{}", std::lround(best[w] * unit), w % 16 == 15 ? ",\n" : ", ");
  }
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"makes the integers of a trellis"};
  app.add_option("--bits", options.bits, "bits of a value")->check(CLI::Range(3, 4));
  app.add_option("--starts", options.starts, "beginnings")->check(CLI::Range(1, 100000));
  app.add_option("--tiles", options.tiles, "Gaussian tiles of 128")->check(CLI::Range(100, 1000000));
  app.add_option("--seed", options.seed, "seed");
  CLI11_PARSE(app, argc, argv);
  make(options);
  return 0;
}
