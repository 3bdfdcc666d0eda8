// Decode speed of several sequences in one step against one: weights are read once for all of them.
// parallel-bench MODEL.gguf [THREADS]

#include <fmt/format.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "src/base/stats.h"
#include "src/engine/context.h"

namespace {

constexpr std::array kWidths = {1, 2, 4};
constexpr int kRounds = 7, kSteps = 48, kPrompt = 64;

engine::StepHooks collect(std::vector<std::vector<float>>& last) {
  engine::StepHooks hooks;
  hooks.on_logits = [&](size_t piece, int, std::span<const float> logits) {
    last[piece].assign(logits.begin(), logits.end());
  };
  return hooks;
}

// kSteps steps of `width` sequences, one token each, after a prompt; tokens per second. `last`: the final logits.
base::Result<double> measure(engine::Context& context, int width, std::vector<std::vector<float>>& last) {
  const int n_vocab = context.model().hp.n_vocab;
  for (int seq = 0; seq < width; ++seq) {
    context.truncate(seq, 0);
    std::vector<int> prompt(kPrompt);
    for (int i = 0; i < kPrompt; ++i) {
      prompt[static_cast<size_t>(i)] = (i * 37 + 11) % n_vocab;
    }
    if (auto read = context.eval(seq, prompt); !read) {
      return read.failure();
    }
  }
  last.assign(static_cast<size_t>(width), {});
  const engine::StepHooks hooks = collect(last);
  const auto begin = std::chrono::steady_clock::now();
  for (int step = 0; step < kSteps; ++step) {
    const int token = (step * 53 + 5) % n_vocab;
    std::vector<engine::Piece> pieces;
    for (int seq = 0; seq < width; ++seq) {
      pieces.push_back({seq, std::span<const int>(&token, 1), 1});
    }
    if (auto stepped = context.step(pieces, hooks); !stepped) {
      return stepped.failure();
    }
  }
  const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - begin;
  return width * kSteps / spent.count();
}

base::Result<void> run(const char* path, int n_threads) {
  auto model = engine::load_model(path, {});
  if (!model) {
    return model.failure();
  }
  engine::ContextOptions options;
  options.n_seqs = kWidths.back();
  options.n_ctx = 256 * options.n_seqs;
  options.n_threads = n_threads;
  auto context = engine::Context::open(*model, options);
  if (!context) {
    return context.failure();
  }
  std::array<std::vector<double>, kWidths.size()> rates;
  std::vector<float> alone;
  for (int round = 0; round < kRounds; ++round) {  // widths interleaved: drift hits all alike
    for (size_t i = 0; i < kWidths.size(); ++i) {
      std::vector<std::vector<float>> last;
      auto rate = measure(**context, kWidths[i], last);
      if (!rate) {
        return rate.failure();
      }
      alone = alone.empty() ? last[0] : alone;
      for (const std::vector<float>& logits : last) {
        if (std::memcmp(logits.data(), alone.data(), alone.size() * sizeof(float)) != 0) {
          return base::error(path, "sequences together give other logits than one alone");
        }
      }
      rates[i].push_back(*rate);
    }
  }
  fmt::print("{}, {} threads, {}\n", path, (*context)->info().n_threads, (*context)->info().backend);
  const double one = base::median(rates[0]);
  for (size_t i = 0; i < kWidths.size(); ++i) {
    const double rate = base::median(rates[i]);
    fmt::print("{} sequences: {:8.1f} tok/s in all ({:.2f}x), {:7.1f} each, median of {}\n", kWidths[i], rate,
               rate / one, rate / kWidths[i], kRounds);
  }
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  const int n_threads = argc == 3 ? std::atoi(argv[2]) : 0;
  if (argc < 2 || argc > 3 || n_threads < 0) {
    fmt::print(stderr, "usage: parallel-bench MODEL.gguf [THREADS]\n");
    return 2;
  }
  const auto done = run(argv[1], n_threads);
  if (!done) {
    fmt::print(stderr, "{}\n", done.failure().to_string());
  }
  return done ? 0 : 1;
}
