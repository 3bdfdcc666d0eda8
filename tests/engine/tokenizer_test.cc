#include "src/engine/tokenizer.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <iterator>
#include <sstream>

#include "tests/engine/vocab_fixture.h"

using engine::Tokenizer;

namespace {

std::vector<std::string> split(const std::string& text, const std::string& separator) {
  std::vector<std::string> out;
  for (size_t at = 0; at <= text.size();) {
    size_t end = std::min(text.find(separator, at), text.size());
    out.push_back(text.substr(at, end - at));
    at = end + separator.size();
  }
  return out;
}

std::string slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

TEST_CASE("the reference vocabularies tokenize every case as llama.cpp does") {
  for (const char* name : {"llama-spm", "phi-3"}) {
    std::string base = test::reference_dir() + "/vocab/ggml-vocab-" + name + ".gguf";
    std::string inputs = slurp(base + ".inp");
    if (inputs.empty()) {
      MESSAGE("no reference vocabulary " << base << ": skipped");
      continue;
    }
    auto mapped = gguf::MappedFile::open(base);
    REQUIRE(mapped);
    auto file = gguf::parse(mapped->bytes(), base);
    REQUIRE(file);
    auto tokenizer = Tokenizer::from_gguf(*file, base);
    REQUIRE(tokenizer);
    std::vector<std::string> cases = split(inputs, "\n__ggml_vocab_test__\n"),
                             lines = split(slurp(base + ".out"), "\n");
    REQUIRE(lines.size() >= cases.size());
    int n_checked = 0;
    for (size_t i = 0; i < cases.size(); ++i) {
      std::istringstream line(lines[i]);
      std::vector<int> want{std::istream_iterator<int>(line), {}};
      std::vector<int> got = tokenizer->encode(cases[i], false, false);
      CHECK_MESSAGE(got == want, name << " case " << i << ": " << cases[i]);
      // Back again: SPM shows the space it put in front.
      if (!cases[i].empty()) {
        CHECK(tokenizer->decode(got, true) == " " + cases[i]);
      }
      ++n_checked;
    }
    CHECK(n_checked >= 46);
  }
}

TEST_CASE("merging takes the best score first and the leftmost of equals") {
  Tokenizer t = test::small_vocabulary();
  // "ab" (score -1) wins over "bc" (-2), although "bc" would let "abc" be one token with "a".
  CHECK(t.encode("abc", false, false) == std::vector<int>{t.find("\xE2\x96\x81"), t.find("ab"), t.find("c")});
  CHECK(t.encode("aaa", false, false) == std::vector<int>{t.find("\xE2\x96\x81"), t.find("aa"), t.find("a")});
}

TEST_CASE("special tokens: longest first, only when asked for, with a space after each") {
  Tokenizer t = test::small_vocabulary();
  int start = t.find("<|im_start|>"), im = t.find("<|im"), space = t.find("\xE2\x96\x81");
  CHECK(t.encode("<|im_start|>a", true, true) == std::vector<int>{t.bos(), start, space, t.find("a")});
  CHECK(t.encode("<|im<|im_start|>", false, true) == std::vector<int>{im, start});
  auto plain = t.encode("<|im_start|>", false, false);
  CHECK(std::find(plain.begin(), plain.end(), start) == plain.end());
  CHECK(t.decode(plain, false) == " <|im_start|>");
  CHECK(t.decode(std::vector<int>{start}, false).empty());
  CHECK(t.decode(std::vector<int>{start}, true) == "<|im_start|>");
}

TEST_CASE("any bytes survive: bytes fall back to byte tokens and come back") {
  Tokenizer t = test::small_vocabulary();
  std::string hostile = "\xff\xfe\xc3(\xf0\x9f\x98" + std::string(1, '\0') + "\x80z\xe2\x96";
  CHECK(t.decode(t.encode(hostile, false, true), true) == " " + hostile);
  CHECK(t.encode("", true, true) == std::vector<int>{t.bos()});
  CHECK(t.encode("", false, true).empty());
}

TEST_CASE("the end-of-generation set holds eos and the names llama.cpp knows") {
  Tokenizer t = test::small_vocabulary();
  CHECK(t.is_eog(t.find("</s>")));
  CHECK(t.is_eog(t.find("<|im_end|>")));
  CHECK_FALSE(t.is_eog(t.find("a")));
  CHECK_FALSE(t.is_eog(t.find("<|im_start|>")));
}

TEST_CASE("a megabyte of hostile text takes less than a second") {
  Tokenizer t = test::small_vocabulary();
  std::string aaa(1 << 20, 'a'), specials, broken(1 << 20, '\xE2');
  while (specials.size() < (1u << 20)) {
    specials += "<|im_start<|im";
  }
  for (const std::string* text : {&aaa, &specials, &broken}) {
    auto begin = std::chrono::steady_clock::now();
    std::vector<int> tokens = t.encode(*text, false, true);
    double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    CHECK(!tokens.empty());
    CHECK_MESSAGE(seconds < test::time_limit(1.0), seconds << " s for " << text->substr(0, 16));
  }
}

TEST_CASE("files that cannot be tokenized with are refused with a reason") {
  gguf::File file = test::small_vocabulary_file();
  auto refused = [&](const std::string& part) {
    auto result = Tokenizer::from_gguf(file, "m.gguf");
    REQUIRE_FALSE(result.ok());
    CHECK(result.failure().to_string().find(part) != std::string::npos);
    CHECK(result.failure().where == "m.gguf");
    file = test::small_vocabulary_file();
  };
  file.metadata["tokenizer.ggml.model"] = std::string("gpt2");
  refused("'gpt2'");
  file.metadata.erase("tokenizer.ggml.model");
  refused("no tokenizer.ggml.model");
  file.metadata.erase("tokenizer.ggml.tokens");
  refused("tokenizer.ggml.tokens");
  file.metadata["tokenizer.ggml.bos_token_id"] = uint32_t{1000000};
  refused("bos_token_id = 1000000");
  auto short_scores = std::make_shared<gguf::Array>();
  short_scores->floats = {1, 2};
  file.metadata["tokenizer.ggml.scores"] = std::shared_ptr<const gguf::Array>(short_scores);
  refused("do not match");
}
