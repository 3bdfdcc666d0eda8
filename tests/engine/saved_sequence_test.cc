// Sequences in files: rows come back to the bit, and what is damaged or another's is refused.

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <future>
#include <new>

#include "kernels/formats/formats.h"
#include "src/engine/saved_sequence.h"
#include "tests/engine/fixtures.h"
#include "tests/engine/generator_rig.h"
#include "tests/engine/server_rig.h"

using base::Json;
using engine::Context;
using engine::ContextOptions;
using engine::GenerationEvent;
using engine::SequenceReader;
using fixtures::HttpRig;
using fixtures::tiny_tokens;

namespace {

thread_local int allocations_left = -1;  // of this thread, before one fails; negative: none does

const std::string kTiny = AR_SOURCE_DIR "/tests/data/tiny.gguf";

class Directory {
 public:
  Directory() : path_((std::filesystem::temp_directory_path() / "ar-saved-XXXXXX").string()) {
    REQUIRE(::mkdtemp(path_.data()) != nullptr);
  }
  ~Directory() { std::filesystem::remove_all(path_); }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

ContextOptions options(std::string_view k, std::string_view v) {
  ContextOptions o;
  o.n_ctx = 512;
  o.n_seqs = 2;
  o.kv_unified = true;
  o.n_ubatch = 64;
  o.n_threads = 1;
  o.cache_type_k = k;
  o.cache_type_v = v;
  return o;
}

void must(const base::Result<void>& done) {
  REQUIRE_MESSAGE(done.ok(), (done.ok() ? "" : done.failure().to_string()));
}

void eval(Context& context, int seq, const std::vector<int>& tokens) {
  const auto done = context.eval(seq, tokens);
  REQUIRE_MESSAGE(done.ok(), (done.ok() ? "" : done.failure().to_string()));
}

void save(const Context& context, int seq, const std::vector<int>& tokens, const std::string& path) {
  const auto bytes = context.save(seq, tokens, path);
  REQUIRE_MESSAGE(bytes.ok(), (bytes.ok() ? "" : bytes.failure().to_string()));
  CHECK(*bytes == std::filesystem::file_size(path));
}

// Why a file is not taken; the sequence is empty then.
std::string refusal(Context& context, const std::string& path) {
  auto saved = SequenceReader::open(path);
  if (!saved) {
    return saved.failure().to_string();
  }
  const auto done = context.restore(0, *saved);
  CHECK(context.length(0) == (done ? static_cast<int>(saved->tokens().size()) : 0));
  context.truncate(0, 0);
  return done ? "" : done.failure().to_string();
}

bool mentions(const std::string& text, std::string_view part) {
  CAPTURE(text);
  return text.find(part) != std::string::npos;
}

}  // namespace

// Memory that runs out for one thread at a chosen allocation. Not inlined: GCC would see free() of what new gave.
[[gnu::noinline]] void* operator new(size_t size) {
  if (allocations_left >= 0 && allocations_left-- == 0) {
    throw std::bad_alloc();
  }
  if (void* const memory = std::malloc(size == 0 ? 1 : size)) {
    return memory;
  }
  throw std::bad_alloc();
}
// std::stable_sort's; AddressSanitizer's own would not do with the delete below.
[[gnu::noinline]] void* operator new(size_t size, const std::nothrow_t&) noexcept {
  return std::malloc(size == 0 ? 1 : size);
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}

TEST_CASE("a restored sequence goes on as the saved one, to the bit, with every type of the cache") {
  const Directory dir;
  const auto model = fixtures::load(kTiny);
  const std::vector<int> prompt = tiny_tokens(150), next{5, 17, 99};
  for (const kernels::KvFormat& format : kernels::kv_formats()) {
    CAPTURE(format.name);
    const std::string path = dir / std::string(format.name);
    const auto before = fixtures::open(model, options(format.name, format.name));
    eval(*before, 0, prompt);
    save(*before, 0, prompt, path);
    std::vector<float> want, got;
    must(before->eval_all(0, next, want));

    const engine::PartId cut{engine::Part::kFfn, 0};
    const auto after = fixtures::open(model, options(format.name, format.name), {&cut, 1});
    eval(*after, 1, {1, 2, 3});  // other pages than the first ones
    auto saved = SequenceReader::open(path);
    REQUIRE(saved.ok());
    CHECK(saved->tokens() == prompt);
    must(after->restore(0, *saved));
    must(after->eval_all(0, next, got));
    CHECK(fixtures::same_bits(got, want));
  }
}

TEST_CASE("a saved sequence holds its own rows alone, for its owner alone") {
  const Directory dir;
  const auto model = fixtures::load(kTiny);
  const std::vector<int> kept = tiny_tokens(130);
  std::vector<int> others(100, 7);
  const auto used = fixtures::open(model, options("q8_0", "tbq3_0"));
  eval(*used, 0, kept);
  eval(*used, 0, others);
  used->truncate(0, 130);
  save(*used, 0, kept, dir / "used");
  const auto fresh = fixtures::open(model, options("q8_0", "tbq3_0"));
  eval(*fresh, 0, kept);
  save(*fresh, 0, kept, dir / "fresh");
  CHECK(fixtures::read_text(dir / "used") == fixtures::read_text(dir / "fresh"));
  CHECK(std::distance(std::filesystem::directory_iterator(dir.path()), {}) ==
        2);  // nothing half written is left
  CHECK(std::filesystem::status(dir / "used").permissions() ==
        (std::filesystem::perms::owner_read | std::filesystem::perms::owner_write));
}

TEST_CASE("a file that is damaged, or of another cache, is refused, and the cache serves on") {
  const Directory dir;
  const auto model = fixtures::load(kTiny);
  const std::vector<int> prompt = tiny_tokens(130), next{3};
  const auto context = fixtures::open(model, options("tbq4_0", "q5_1"));
  eval(*context, 0, prompt);
  save(*context, 0, prompt, dir / "whole");
  std::vector<float> want, got;
  must(context->eval_all(0, next, want));
  context->truncate(0, 0);
  const std::string whole = fixtures::read_text(dir / "whole");
  const auto write = [&](const std::string& text) {
    std::ofstream(dir / "bad", std::ios::binary) << text;
    return dir / "bad";
  };
  for (const size_t length : {size_t{0}, size_t{5}, size_t{12}, whole.size() / 2, whole.size() - 1}) {
    CAPTURE(length);
    CHECK(mentions(refusal(*context, write(whole.substr(0, length))),
                   length < 100 ? "too early" : "bytes, 130 tokens"));
  }
  CHECK(mentions(refusal(*context, write(whole + "x")), "bytes, 130 tokens take"));
  for (const size_t at : {size_t{0}, size_t{9}, size_t{14}, size_t{20}, whole.size() / 2, whole.size() - 3}) {
    std::string bad = whole;
    bad[at] = static_cast<char>(bad[at] ^ 0x40);
    CAPTURE(at);
    CHECK_FALSE(refusal(*context, write(bad)).empty());
  }
  CHECK(mentions(refusal(*context, dir / "none"), "save one under that name"));
  CHECK(mentions(refusal(*context, dir.path()), dir.path()));
  CHECK(::mkfifo((dir / "pipe").c_str(), 0600) == 0);
  CHECK(mentions(refusal(*context, dir / "pipe"), "no file that can be read"));

  const auto other = fixtures::open(model, options("tbq4_0", "q4_0"));
  CHECK(mentions(refusal(*other, dir / "whole"), "layer 0 as [\"tbq4_0\",\"q5_1 rotated\""));
  const auto as_large = fixtures::open(model, options("tcq4_0", "q5_1"));  // the same bytes, another code
  CHECK(mentions(refusal(*as_large, dir / "whole"), "layer 0 as [\"tbq4_0\","));
  eval(*context, 0, tiny_tokens(300));
  save(*context, 0, tiny_tokens(300), dir / "long");
  context->truncate(0, 0);
  ContextOptions small = options("tbq4_0", "q5_1");
  small.n_ctx = 256;
  small.n_seqs = 1;
  CHECK(mentions(refusal(*fixtures::open(model, small), dir / "long"), "raise --ctx-size"));

  auto saved = SequenceReader::open(dir / "whole");
  REQUIRE(saved.ok());
  must(context->restore(0, *saved));
  must(context->eval_all(0, next, got));
  CHECK(fixtures::same_bits(got, want));
}

TEST_CASE("slots are saved, erased and restored over HTTP; a restored prompt is not read again") {
  const Directory dir;
  const HttpRig rig([&](engine::ServerOptions& o) {
    o.slot_save_path = dir.path();
    o.context.cache_type_k = "tbq4_0";
    o.context.cache_type_v = "tbq3_0";
  });
  const Json ask = {{"prompt", "The capital of France is the city of"},
                    {"n_predict", 4},
                    {"temperature", 0},
                    {"id_slot", 0}};
  const Json first = rig.json("/completion", ask.dump());
  const Json saved = rig.json("/slots/0?action=save", R"({"filename": "paris.bin"})");
  CHECK(saved["id_slot"] == 0);
  CHECK(saved["filename"] == "paris.bin");
  CHECK(saved["n_written"] == std::filesystem::file_size(dir / "paris.bin"));
  const int n = saved["n_saved"];
  CHECK(n >= first["tokens_evaluated"].get<int>());
  CHECK(rig.json("/slots/0?action=erase", "")["n_erased"] == n);
  CHECK(rig.json("/completion", ask.dump())["timings"]["cache_n"] == 0);
  rig.json("/slots/0?action=erase", "");
  const Json restored = rig.json("/slots/0?action=restore", R"({"filename": "paris.bin"})");
  CHECK(restored["n_restored"] == n);
  CHECK(restored["n_read"] == saved["n_written"]);
  const Json again = rig.json("/completion", ask.dump());
  CHECK(again["content"] == first["content"]);
  CHECK(again["timings"]["prompt_n"] == 1);

  for (const char* name : {"", ".", "../x", "a/b", "a b", "/etc/passwd", "x\\u0000y", ".hidden"}) {
    CAPTURE(name);
    CHECK(rig.post("/slots/0?action=restore", fmt::format(R"({{"filename": "{}"}})", name)).status == 400);
  }
  CHECK(rig.post("/slots/0?action=restore", R"({"filename": "none"})").status == 400);
  CHECK(rig.post("/slots/0?action=save", "{}").status == 400);
  CHECK(rig.post("/slots/7?action=erase", "").status == 400);
  CHECK(rig.post("/slots/0?action=fly", "").status == 400);
  CHECK(rig.json("/completion", ask.dump())["content"] ==
        first["content"]);  // what was refused has lost nothing
}

TEST_CASE("while a slot's file is written or read other slots go on, and who wants that slot waits") {
  const Directory dir;
  const std::string path = dir / "file", folder = std::filesystem::path(path).parent_path();
  fixtures::GeneratorRig rig(fixtures::slot_options(2, 1024, true));
  engine::Generator& generator = *rig.generator;
  fixtures::finish(*rig.submit(2, 200, 0));
  const auto rows = [&] { return generator.view().slots[0].n_tokens; };
  const int n = rows();
  CHECK(n >= 200);
  bool was_held = false;
  std::shared_ptr<engine::Task> wants;
  // Asked on this thread between two parts of the file, and before the slot is held.
  const auto meanwhile = [&](const std::function<bool()>& held) {
    return [&, held] {
      if (was_held || !held()) {
        return false;
      }
      was_held = true;
      std::string why;
      int asked = 0;
      CHECK(generator.reconfigure(
                fixtures::slot_options(2, 512, true), {}, [&] { return ++asked > 2; }, why) ==
            engine::Reconfigured::kGivenUp);
      wants = rig.submit(1, 3, 0);
      CHECK(fixtures::finish(*rig.submit(2, 3, 1)).kind == GenerationEvent::Kind::kDone);
      CHECK_FALSE(wants->wait(std::chrono::milliseconds(0)).has_value());
      return false;
    };
  };
  const auto begun = [&] { return !std::filesystem::is_empty(folder); };
  const engine::SlotOutcome saved = generator.save_slot(0, path, meanwhile(begun));
  CHECK_MESSAGE(saved.kind == engine::SlotOutcome::Kind::kDone, saved.why);
  CHECK(saved.n_tokens == n);
  REQUIRE(was_held);
  CHECK(fixtures::finish(*wants).kind == GenerationEvent::Kind::kDone);

  was_held = false;
  const engine::SlotOutcome restored =
      generator.restore_slot(0, path, meanwhile([&] { return rows() == 0; }));
  CHECK_MESSAGE(restored.kind == engine::SlotOutcome::Kind::kDone, restored.why);
  REQUIRE(was_held);
  CHECK(fixtures::finish(*wants).kind == GenerationEvent::Kind::kDone);

  // Given up in the middle: nothing half written, nothing half read, and the slot serves.
  std::filesystem::rename(path, dir / "kept");
  const auto is_writing = [&] { return std::distance(std::filesystem::directory_iterator(folder), {}) > 1; };
  CHECK(generator.save_slot(0, path, is_writing).kind == engine::SlotOutcome::Kind::kUnavailable);
  CHECK_FALSE(is_writing());
  CHECK(generator.restore_slot(0, dir / "kept", [&] { return rows() == 0; }).kind ==
        engine::SlotOutcome::Kind::kUnavailable);
  CHECK(rows() == 0);
  CHECK(fixtures::finish(*rig.submit(2, 3, 0)).kind == GenerationEvent::Kind::kDone);
}

// Reading it is not tried: a file's header is JSON, and JSON that goes away allocates.
TEST_CASE("a slot is free again whichever allocation fails while its file is written") {
  const Directory dir;
  const std::string path = dir / "file", kept = dir / "kept";
  fixtures::GeneratorRig rig(fixtures::slot_options(2, 1024, true));
  engine::Generator& generator = *rig.generator;
  fixtures::finish(*rig.submit(2, 200, 0));
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(5);
  const std::function<bool()> late = [&] { return std::chrono::steady_clock::now() > end; };
  REQUIRE(generator.save_slot(0, kept, late).kind == engine::SlotOutcome::Kind::kDone);
  int n_failed = 0;
  for (bool failed = true; failed; n_failed += failed) {
    CAPTURE(n_failed);
    allocations_left = n_failed;
    try {
      generator.save_slot(0, path, late);
    } catch (const std::exception&) {
    }
    failed = allocations_left < 0;
    allocations_left = -1;
    REQUIRE(generator.restore_slot(0, kept, late).kind == engine::SlotOutcome::Kind::kDone);
  }
  CHECK(n_failed > 10);
  const auto folder = std::filesystem::path(path).parent_path();
  CHECK(std::distance(std::filesystem::directory_iterator(folder), {}) == 2);  // no part of a file
}

TEST_CASE("a restore that must wait for pages of a slot that is held waits, and keeps what there is") {
  const Directory dir;
  const std::string path = dir / "file", kept = dir / "kept";
  const std::string folder = std::filesystem::path(path).parent_path();
  fixtures::GeneratorRig rig(fixtures::slot_options(2, 512, true));
  engine::Generator& generator = *rig.generator;
  fixtures::finish(*rig.submit(2, 300, 0));  // three of the four pages
  fixtures::finish(*rig.submit(2, 3, 1, 301));
  const auto never = [] { return false; };
  REQUIRE(generator.save_slot(0, kept, never).kind == engine::SlotOutcome::Kind::kDone);
  const int n_before = generator.view().slots[1].n_tokens;
  CHECK(n_before > 0);
  std::future<engine::SlotOutcome> restored;
  const engine::SlotOutcome saved = generator.save_slot(0, path, [&] {
    if (!restored.valid() && std::distance(std::filesystem::directory_iterator(folder), {}) > 1) {
      std::atomic<int> asked = 0;
      CHECK(generator.restore_slot(1, kept, [&] { return ++asked > 4; }).kind ==
            engine::SlotOutcome::Kind::kUnavailable);
      CHECK(asked > 4);
      CHECK(generator.view().slots[1].n_tokens == n_before);
      restored = std::async(std::launch::async, [&] { return generator.restore_slot(1, kept, never); });
    }
    return false;
  });
  CHECK(saved.kind == engine::SlotOutcome::Kind::kDone);
  REQUIRE(restored.valid());
  const engine::SlotOutcome done = restored.get();
  CHECK_MESSAGE(done.kind == engine::SlotOutcome::Kind::kDone, done.why);
  CHECK(generator.view().slots[1].n_tokens == done.n_tokens);
}
