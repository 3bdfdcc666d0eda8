// A GPU's kernels beside what its memory gives: reading, products of decode by type of weight, attention of decode by
// types of the cache; and products of prefill. One JSON object on stdout. They are checked by test_cuda; this only times.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <random>
#include <vector>

#include "bench/must.h"
#include "kernels/cuda/bandwidth.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/kv.h"
#include "kernels/cuda/mat_vec.h"
#include "kernels/cuda/runtime.h"
#include "src/base/json.h"
#include "src/base/version.h"

namespace {

namespace cuda = kernels::cuda;
using bench::must;

constexpr uint64_t kReadBytes = uint64_t{8} << 30;
// What is timed together is as large where there is room: no cache holds it, and starting it does not count.
constexpr uint64_t kManyBytes = uint64_t{8} << 30;
constexpr int kPasses = 9;

cuda::Memory device(uint64_t bytes) {
  return must(cuda::Memory::allocate(cuda::Place::kDevice, bytes, "a benchmark"));
}

uint64_t many_bytes() {
  return std::min(kManyBytes, must(cuda::free_memory()) / 4);
}

// Bytes at random, but none that as the upper half of a float16 would make it infinite or no number: zeros would be read
// with fewer bits changing, and looked up in one place of a table.
cuda::Memory random_device(uint64_t bytes) {
  std::vector<uint64_t> words(std::min<uint64_t>((bytes + 7) / 8, uint64_t{1} << 23));
  std::mt19937_64 random(1);
  for (uint64_t& word : words) {
    word = random() & 0x3fff3fff3fff3fff;
  }
  cuda::Memory memory = device(bytes);
  const cuda::OwnStream stream = must(cuda::OwnStream::create());
  for (uint64_t at = 0; at < bytes; at += words.size() * 8) {
    must(cuda::copy(stream.get(), memory.data() + at, words.data(), std::min(bytes - at, words.size() * 8),
                    cuda::Direction::kToDevice));
  }
  must(cuda::synchronise(stream.get()));
  return memory;
}

// Seconds of the fastest of several runs of what `enqueue` enqueues; the first is not counted.
double seconds_each(cuda::Stream stream, const std::function<base::Result<void>()>& enqueue) {
  using Clock = std::chrono::steady_clock;
  double best = 1e9;
  for (int pass = 0; pass <= kPasses; ++pass) {
    const auto began = Clock::now();
    must(enqueue());
    must(cuda::synchronise(stream));
    best = pass == 0 ? best : std::min(best, std::chrono::duration<double>(Clock::now() - began).count());
  }
  return best;
}

// The same as a graph, where one launch is too short for its start not to count.
double seconds_of(cuda::Stream stream, const std::function<base::Result<void>()>& enqueue) {
  const cuda::Graph graph = must(cuda::Graph::capture(stream, enqueue));
  return seconds_each(stream, [&] { return graph.launch(stream); });
}

double read_speed(cuda::Stream stream) {
  const uint64_t bytes = std::min(kReadBytes, must(cuda::free_memory()) / 2) / 4096 * 4096;
  const cuda::Memory memory = device(bytes), sums = device(cuda::kReadSums * sizeof(uint32_t));
  must(cuda::zero(stream, memory.data(), bytes));
  return must(
      cuda::read_bandwidth(stream, memory.data(), bytes, kPasses, reinterpret_cast<uint32_t*>(sums.data())));
}

// The matrices of a model of 8B parameters, one row of activations.
base::Json mat_vecs(cuda::Stream stream, double read) {
  base::Json rows = base::Json::array();
  for (const kernels::WeightFormat& format : kernels::weight_formats()) {
    const bool dots = cuda::has_dots(format.ggml_type);
    if (!dots && !cuda::has_floats(format.ggml_type)) {
      continue;
    }
    for (const auto& [n_rows, cols] :
         {std::pair<int64_t, int64_t>(14336, 4096), std::pair<int64_t, int64_t>(4096, 14336)}) {
      const auto row_bytes = static_cast<size_t>(cols / format.block_values * format.block_bytes);
      const uint64_t bytes = static_cast<uint64_t>(n_rows) * row_bytes, n = many_bytes() / bytes + 1;
      const cuda::Memory weights = random_device(bytes * n),
                         x = random_device(static_cast<uint64_t>(cols) * 8),
                         y = device(static_cast<uint64_t>(n_rows) * sizeof(float));
      cuda::MatVec product;
      product.ggml_type = format.ggml_type;
      product.n_rows = n_rows;
      product.cols = cols;
      product.row_bytes = row_bytes;
      product.x = dots ? reinterpret_cast<const kernels::DotBlock*>(x.data()) : nullptr;
      product.x_floats = dots ? nullptr : reinterpret_cast<const float*>(x.data());
      product.y = reinterpret_cast<float*>(y.data());
      const double seconds = seconds_of(stream, [&]() -> base::Result<void> {
        for (uint64_t i = 0; i < n; ++i) {
          product.data = weights.data() + i * bytes;
          if (auto done = cuda::mat_vec(stream, {1, nullptr}, product); !done) {
            return done;
          }
        }
        return {};
      });
      const double speed = static_cast<double>(bytes * n) / seconds;
      rows.push_back({{"type", format.name},
                      {"rows", n_rows},
                      {"cols", cols},
                      {"us", seconds / static_cast<double>(n) * 1e6},
                      {"gb_per_s", speed / 1e9},
                      {"share_of_read", speed / read}});
      fmt::print(stderr, "mat_vec {:8} {:5} x {:5}: {:7.1f} GB/s, {:.0f}%\n", format.name, n_rows, cols,
                 speed / 1e9, 100 * speed / read);
    }
  }
  return rows;
}

// The same matrices, a prompt's ubatch of 512 rows.
base::Json gemms(cuda::Stream stream) {
  constexpr int kRows = 512;
  base::Json rows = base::Json::array();
  for (const auto& [n_rows, cols] :
       {std::pair<int64_t, int64_t>(14336, 4096), std::pair<int64_t, int64_t>(4096, 14336)}) {
    const double flops = 2.0 * static_cast<double>(n_rows) * static_cast<double>(cols) * kRows;
    const cuda::Memory x = random_device(static_cast<uint64_t>(cols) * kRows * 2),
                       y = device(static_cast<uint64_t>(n_rows) * kRows * sizeof(float));
    for (const kernels::WeightFormat& format : kernels::weight_formats()) {
      if (!cuda::has_dots(format.ggml_type) && !cuda::has_floats(format.ggml_type)) {
        continue;
      }
      cuda::Gemm product;
      product.ggml_type = format.ggml_type;
      product.n_rows = n_rows;
      product.cols = cols;
      product.row_bytes = static_cast<size_t>(cols / format.block_values * format.block_bytes);
      const cuda::Memory weights = random_device(static_cast<uint64_t>(n_rows) * product.row_bytes);
      product.data = weights.data();
      product.x = reinterpret_cast<const uint16_t*>(x.data());
      product.y = reinterpret_cast<float*>(y.data());
      const double seconds = seconds_each(stream, [&] {
        return cuda::gemm(stream, {kRows, nullptr}, product);
      });
      rows.push_back({{"type", format.name},
                      {"rows", n_rows},
                      {"cols", cols},
                      {"tokens", kRows},
                      {"tflops", flops / seconds / 1e12}});
      fmt::print(stderr, "gemm {:8} {:5} x {:5} of {}: {:6.1f} TFLOP/s\n", format.name, n_rows, cols, kRows,
                 flops / seconds / 1e12);
    }
  }
  return rows;
}

// One token after 32K others, 8 KV heads of 128 with 4 query heads each, in as many layers as no cache holds.
base::Json attentions(cuda::Stream stream, double read) {
  constexpr int kTokens = 32768, kHeads = 8, kGroup = 4, kDim = 128, kPages = kTokens / kernels::kPageTokens;
  base::Json rows = base::Json::array();
  std::vector<int> numbers(kPages);
  for (int i = 0; i < kPages; ++i) {
    numbers[static_cast<size_t>(i)] = i;
  }
  const cuda::Memory tables = device(sizeof(int) * (kPages + 2));
  const int visible = kTokens, seq = 0;
  auto* table = reinterpret_cast<int*>(tables.data());
  must(cuda::copy(stream, table, numbers.data(), sizeof(int) * kPages, cuda::Direction::kToDevice));
  must(cuda::copy(stream, table + kPages, &visible, sizeof visible, cuda::Direction::kToDevice));
  must(cuda::copy(stream, table + kPages + 1, &seq, sizeof seq, cuda::Direction::kToDevice));
  const size_t partial_floats = cuda::partial_floats(1, kHeads, kGroup, kDim, kTokens);
  const cuda::Memory q = random_device(kHeads * kGroup * kDim * sizeof(float)), out = device(q.size()),
                     partial = device(partial_floats * sizeof(float));
  for (const kernels::KvFormat& k : kernels::kv_formats()) {
    for (const kernels::KvFormat& v : kernels::kv_formats()) {
      const auto k_type = cuda::kv_type(k, kDim), v_type = cuda::kv_type(v, kDim);
      if (!k_type || !v_type) {
        continue;
      }
      const uint64_t k_page = k.page_bytes(kDim), v_page = v.page_bytes(kDim);
      const uint64_t layer_bytes = kPages * kHeads * (k_page + v_page), n = many_bytes() / layer_bytes + 1;
      const cuda::Memory cache = random_device(layer_bytes * n);
      cuda::Attention attention;
      attention.heads = kHeads;
      attention.group = kGroup;
      attention.q = reinterpret_cast<const float*>(q.data());
      attention.visible = table + kPages;
      attention.seq = table + kPages + 1;
      attention.pages = table;
      attention.seq_pages = kPages;
      attention.out = reinterpret_cast<float*>(out.data());
      attention.partial = reinterpret_cast<float*>(partial.data());
      attention.k.dim = attention.v.dim = kDim;
      const double seconds = seconds_of(stream, [&]() -> base::Result<void> {
        for (uint64_t i = 0; i < n; ++i) {
          std::byte* layer = cache.data() + i * layer_bytes;
          attention.k.pages = {*k_type, layer, static_cast<int64_t>(kHeads * k_page),
                               static_cast<int64_t>(k_page)};
          attention.v.pages = {*v_type, layer + kPages * kHeads * k_page,
                               static_cast<int64_t>(kHeads * v_page), static_cast<int64_t>(v_page)};
          if (auto done = cuda::attend(stream, {1, nullptr}, attention, kTokens); !done) {
            return done;
          }
        }
        return {};
      });
      const double speed = static_cast<double>(layer_bytes * n) / seconds;
      rows.push_back({{"k", k.name},
                      {"v", v.name},
                      {"tokens", kTokens},
                      {"us_per_layer", seconds / static_cast<double>(n) * 1e6},
                      {"gb_per_s", speed / 1e9},
                      {"share_of_read", speed / read}});
      fmt::print(stderr, "attention {:7}/{:7} at 32K: {:7.1f} us a layer, {:7.1f} GB/s, {:.0f}%\n", k.name,
                 v.name, seconds / static_cast<double>(n) * 1e6, speed / 1e9, 100 * speed / read);
    }
  }
  return rows;
}

void run() {
  const cuda::Device found = must(cuda::find_device());
  const cuda::OwnStream stream = must(cuda::OwnStream::create());
  const double read = read_speed(stream.get());
  fmt::print(stderr, "{}: reads {:.1f} GB/s\n", found.name, read / 1e9);
  base::Json all = {{"gpu", found.name},
                    {"sm", found.sm},
                    {"multiprocessors", found.multiprocessors},
                    {"memory_bytes", found.memory_bytes},
                    {"shared_bytes_per_block", found.shared_bytes},
                    {"integrated", found.integrated},
                    {"pageable_access", found.pageable_access},
                    {"version", base::version()},
                    {"commit", base::commit()},
                    {"read_gb_per_s", read / 1e9}};
  all["mat_vec"] = mat_vecs(stream.get(), read);
  all["gemm"] = gemms(stream.get());
  all["attention"] = attentions(stream.get(), read);
  fmt::print("{}\n", all.dump(2));
}

}  // namespace

int main() {
  try {
    run();
  } catch (const std::exception& failed) {
    fmt::print(stderr, "gpu-bench: {}\n", failed.what());
    return 1;
  }
  return 0;
}
