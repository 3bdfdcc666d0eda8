// Sequences in files: rows come back to the bit, and what is damaged or another's is refused.

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/formats/formats.h"
#include "src/engine/saved_sequence.h"
#include "tests/engine/fixtures.h"
#include "tests/engine/server_rig.h"

using base::Json;
using engine::Context;
using engine::ContextOptions;
using engine::SequenceReader;
using fixtures::HttpRig;
using fixtures::tiny_tokens;

namespace {

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
