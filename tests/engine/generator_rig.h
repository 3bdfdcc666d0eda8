#pragma once
// A generator of the demo model, without a server: tasks are submitted to it directly.

#include <doctest/doctest.h>

#include <chrono>
#include <memory>
#include <new>
#include <optional>
#include <thread>
#include <vector>

#include "src/engine/generation.h"
#include "tests/engine/fixtures.h"
#include "tests/engine/server_rig.h"

namespace fixtures {

// A generator with its own model, to submit tasks to directly.
struct GeneratorRig {
  explicit GeneratorRig(const engine::ContextOptions& options) : model(load(demo_model())) {
    auto read = engine::Tokenizer::from_gguf(model->file, demo_model());
    REQUIRE(read.ok());
    tokenizer.emplace(*std::move(read));
    generator.emplace(
        open(model, options), options, engine::SpeculationOptions{},
        [this](const engine::ContextOptions& o) { return engine::Context::open(model, o); }, *tokenizer);
  }
  std::shared_ptr<engine::Task> submit(int n_predict, int prompt_tokens = 3, int id_slot = -1,
                                       int first = 300) {
    engine::GenerationParams params;
    params.sampling.temperature = 0;
    params.sampling.ignore_eos = true;
    params.n_predict = n_predict;
    params.id_slot = id_slot;
    std::vector<int> prompt(static_cast<size_t>(prompt_tokens), 300);
    prompt[0] = first;
    return generator->submit(std::move(prompt), params);
  }

  // Whether the first slot is still busy after that time at most.
  bool busy_within(std::chrono::seconds timeout) {
    const auto end = std::chrono::steady_clock::now() + timeout;
    bool busy = true;
    while (busy && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      try {
        busy = generator->view().slots[0].processing;
      } catch (const std::bad_alloc&) {  // this thread may find nothing left either
      }
    }
    return busy;
  }

  std::shared_ptr<const engine::Model> model;
  std::optional<engine::Tokenizer> tokenizer;
  std::optional<engine::Generator> generator;
};

inline engine::ContextOptions slot_options(int n_seqs, int n_ctx, bool unified) {
  engine::ContextOptions chosen;
  chosen.n_seqs = n_seqs;
  chosen.n_ctx = n_ctx;
  chosen.kv_unified = unified;
  chosen.n_ubatch = 32;
  chosen.n_threads = 1;
  return chosen;
}

// Waits for an event of the kind; what else comes is dropped.
inline engine::GenerationEvent await(engine::Task& task, engine::GenerationEvent::Kind kind) {
  while (true) {
    auto event = task.wait(std::chrono::seconds(120));
    REQUIRE(event.has_value());
    if (event->kind == kind || event->kind == engine::GenerationEvent::Kind::kDone ||
        event->kind == engine::GenerationEvent::Kind::kFailed) {
      return *event;
    }
  }
}
inline engine::GenerationEvent finish(engine::Task& task) {
  return await(task, engine::GenerationEvent::Kind::kDone);
}

}  // namespace fixtures
