// A model in several files computes what it computes in one.

#include <fmt/format.h>
#include <unistd.h>

#include "tests/engine/fixtures.h"
#include "tests/gguf/split_gguf.h"

namespace {

const std::string kTiny = AR_SOURCE_DIR "/tests/data/tiny.gguf";

std::vector<float> logits_of(const std::shared_ptr<const engine::Model>& model) {
  engine::ContextOptions options;
  options.n_ctx = 256;
  options.n_threads = 2;
  auto context = fixtures::open(model, options);
  return fixtures::logits(*context, fixtures::read_tokens(AR_SOURCE_DIR "/tests/data/tiny.json"));
}

}  // namespace

TEST_CASE("a split model loads as one: same weights, same logits, mapped and read") {
  const fixtures::Folder folder(fmt::format("ar_split_model_{}", ::getpid()));
  const auto whole = fixtures::load(kTiny);
  const std::vector<float> golden = logits_of(whole);
  for (const bool bare_first : {false, true}) {
    const std::string first =
        fixtures::write_parts(folder, fixtures::split_gguf(kTiny, 3, bare_first), bare_first ? "b" : "m");
    for (const bool mmap : {true, false}) {
      const auto model = fixtures::load(first, {mmap, true});
      CHECK(model->path == first);
      CHECK(model->weight_bytes == whole->weight_bytes);
      CHECK(model->n_params == whole->n_params);
      CHECK(model->file.tensors.size() == whole->file.tensors.size());
      CHECK(logits_of(model) == golden);
    }
  }
}

TEST_CASE("the fingerprint of a split model sees every part") {
  const fixtures::Folder folder(fmt::format("ar_split_print_{}", ::getpid()));
  std::vector<std::string> parts = fixtures::split_gguf(kTiny, 3);
  const std::string first = fixtures::write_parts(folder, parts);
  const uint64_t before = fixtures::load(first)->fingerprint;
  CHECK(fixtures::load(first)->fingerprint == before);
  const auto model = gguf::open_model(first, gguf::Access::kMap);
  for (const gguf::Tensor& tensor : model->file.tensors) {
    if (tensor.part == 2) {
      parts[2][tensor.offset + tensor.bytes / 2] ^= 1;
      break;
    }
  }
  fixtures::write_parts(folder, parts);
  CHECK(fixtures::load(first)->fingerprint != before);
}

TEST_CASE("a split model that cannot be is refused before its weights are bound") {
  const fixtures::Folder folder(fmt::format("ar_split_bad_{}", ::getpid()));
  const std::string first = fixtures::write_parts(folder, fixtures::split_gguf(kTiny, 2));
  const std::string second = folder.path("m-00002-of-00002.gguf");
  const auto not_first = engine::load_model(second, {});
  REQUIRE_FALSE(not_first.ok());
  CHECK(not_first.failure().next == "give the first part: " + first);
  std::filesystem::remove(second);
  const auto missing = engine::load_model(first, {});
  REQUIRE_FALSE(missing.ok());
  CHECK(missing.failure().where == second);
}
