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

// Each case gives its line of ids, and the ids give the case back (SPM shows the space it put in front).
void check_cases(const std::string& name, const Tokenizer& tokenizer, const std::string& inputs,
                 const std::string& outputs, int n_expected, bool spm) {
  std::vector<std::string> cases = split(inputs, "\n__ggml_vocab_test__\n"), lines = split(outputs, "\n");
  REQUIRE(lines.size() >= cases.size());
  int n_checked = 0;
  for (size_t i = 0; i < cases.size(); ++i) {
    std::istringstream line(lines[i]);
    std::vector<int> want{std::istream_iterator<int>(line), {}};
    std::vector<int> got = tokenizer.encode(cases[i], false, false);
    CHECK_MESSAGE(got == want, name << " case " << i << ": " << cases[i]);
    if (!cases[i].empty()) {
      CHECK(tokenizer.decode(got, true) == (spm ? " " : "") + cases[i]);
    }
    ++n_checked;
  }
  CHECK(n_checked >= n_expected);
}

}  // namespace

TEST_CASE("the reference vocabularies tokenize every case as llama.cpp does") {
  for (const char* name : {"llama-spm", "phi-3", "gpt-2", "starcoder", "deepseek-llm"}) {
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
    REQUIRE_MESSAGE(tokenizer.ok(), (tokenizer.ok() ? "" : tokenizer.failure().to_string()));
    check_cases(name, *tokenizer, inputs, slurp(base + ".out"), 46,
                file->get_string("tokenizer.ggml.model") == "llama");
  }
}

TEST_CASE("every pre-tokenizer splits every case as llama.cpp does") {
  const std::string folder = test::reference_dir() + "/vocab/pre/";
  const std::string inputs = slurp(folder + "cases.inp");
  if (inputs.empty()) {
    MESSAGE("no reference cases in " << folder << ": skipped");
    return;
  }
  auto mapped = gguf::MappedFile::open(folder + "vocab-gpt2-pre-gpt-2.gguf");
  REQUIRE(mapped);
  auto file = gguf::parse(mapped->bytes(), "gpt-2");
  REQUIRE(file);
  for (const char* pre : {"gpt-2", "llama-bpe", "qwen2", "qwen35", "gpt-4o", "minimax-m2", "tekken", "glm4",
                          "deepseek-llm", "deepseek-coder", "deepseek-v3", "falcon", "default"}) {
    file->metadata["tokenizer.ggml.pre"] = std::string(pre);
    auto tokenizer = Tokenizer::from_gguf(*file, pre);
    REQUIRE_MESSAGE(tokenizer.ok(), (tokenizer.ok() ? "" : tokenizer.failure().to_string()));
    check_cases(pre, *tokenizer, inputs, slurp(folder + pre + ".out"), 59, false);
  }
}

TEST_CASE("byte-level BPE merges by rank and falls back to bytes") {
  Tokenizer t = test::small_bpe_vocabulary();
  // "bc" (rank 0) wins over "ab" (rank 1); "abc" is reached through it. "de" is a step that is no token.
  CHECK(t.encode("abc", false, false) == std::vector<int>{t.find("abc")});
  CHECK(t.encode("ab", false, false) == std::vector<int>{t.find("ab")});
  CHECK(t.encode("de", false, false) == std::vector<int>{t.find("d"), t.find("e")});
  CHECK(t.encode("def", false, false) == std::vector<int>{t.find("def")});
  CHECK(t.encode("aaa", false, false) == std::vector<int>{t.find("aa"), t.find("a")});
  CHECK_FALSE(t.adds_bos());
  CHECK(t.kind() == Tokenizer::kBytePair);
}

TEST_CASE("byte-level BPE: special tokens only when asked for, user-defined ones always") {
  Tokenizer t = test::small_bpe_vocabulary();
  int start = t.find("<|im_start|>"), user = t.find("<tool>");
  CHECK(t.encode("a<|im_start|>b<tool>", true, true) ==
        std::vector<int>{t.find("a"), start, t.find("b"), user});
  auto plain = t.encode("<|im_start|><tool>", false, false);
  CHECK(std::find(plain.begin(), plain.end(), start) == plain.end());
  CHECK(plain.back() == user);
  CHECK(t.decode(plain, false) == "<|im_start|><tool>");
  CHECK(t.decode(std::vector<int>{start}, false).empty());
  CHECK(t.decode(std::vector<int>{start}, true) == "<|im_start|>");
  CHECK(t.is_eog(t.find("<|im_end|>")));
  // Even a whole word that a control token spells, and merges that would make it.
  auto word = t.encode("xy", false, false);
  CHECK(word == std::vector<int>{t.find("x"), t.find("y")});
  CHECK(t.encode("xy", false, true) == std::vector<int>{t.find("xy")});
}

TEST_CASE("byte-level BPE: any bytes survive, whatever the rules") {
  std::string all;
  for (int b = 0; b < 256; ++b) {
    all.push_back(static_cast<char>(b));
  }
  for (const char* pre : {"gpt-2", "llama-bpe", "minimax-m2", "deepseek-llm", "deepseek-v3", "default"}) {
    Tokenizer t = test::small_bpe_vocabulary(pre);
    for (const std::string& text : {all, std::string("\xff\xfe\xc3(\xf0\x9f\x98\0 \x80z\xe2\x96", 13),
                                    std::string("a\xED\xA0\x80  \xC3\xA9\xC0 b")}) {
      CHECK(t.decode(t.encode(text, false, true), true) == text);
    }
  }
}

TEST_CASE("byte-level BPE: hostile text takes time in proportion to its length") {
  auto seconds = [](const Tokenizer& t, const std::string& text) {
    auto begin = std::chrono::steady_clock::now();
    CHECK(!t.encode(text, false, true).empty());
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  constexpr size_t kSize = 1 << 20;
  auto repeated = [](std::string_view unit) {
    std::string out;
    while (out.size() < kSize) {
      out += unit;
    }
    return out;
  };
  for (const char* pre :
       {"gpt-2", "llama-bpe", "qwen2", "minimax-m2", "deepseek-llm", "deepseek-v3", "default"}) {
    Tokenizer t = test::small_bpe_vocabulary(pre);
    for (const std::string& text :
         {repeated("a"), repeated("A"), repeated(" "), repeated("\n"), repeated(" \n"), repeated("1"),
          repeated("!"), repeated(" ") + "x", repeated("\xE4\xB8\xAD"), repeated("\xE2"), repeated("a\xFF"),
          repeated("'"), repeated("<|im_start<|im"), repeated("\x01")}) {
      double took = seconds(t, text);
      // Quadratic time would be minutes.
      CHECK_MESSAGE(took < test::time_limit(10), took << " s: " << pre << " '" << text.substr(0, 8) << "'");
    }
  }
}

TEST_CASE("damaged BPE vocabularies are refused with a reason") {
  gguf::File file = test::small_bpe_vocabulary_file();
  auto refused = [&](const std::string& part) {
    auto result = Tokenizer::from_gguf(file, "m.gguf");
    REQUIRE_FALSE(result.ok());
    CHECK_MESSAGE(result.failure().to_string().find(part) != std::string::npos, result.failure().to_string());
    file = test::small_bpe_vocabulary_file();
  };
  auto with = [&](const char* key, const std::string& more) {
    auto changed = std::make_shared<gguf::Array>(*file.get_array(key));
    changed->strings.push_back(more);
    file.metadata[key] = std::shared_ptr<const gguf::Array>(changed);
  };
  file.metadata.erase("tokenizer.ggml.merges");
  refused("tokenizer.ggml.merges is missing");
  with("tokenizer.ggml.merges", "ab");
  refused("'ab', not two parts");
  with("tokenizer.ggml.merges", "ab ");
  refused("not two parts");
  with("tokenizer.ggml.merges", std::string(50, 'a') + " b");
  refused("makes 51 bytes");
  file.metadata["tokenizer.ggml.pre"] = std::string("martian");
  refused("'martian', which is not supported");
  file.metadata["tokenizer.ggml.eos_token_id"] = int32_t{-7};
  refused("eos_token_id = -7");
  file.metadata.erase("tokenizer.ggml.token_type");
  with("tokenizer.ggml.tokens", "ab");
  refused("are both 'ab'");
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
  file.metadata["tokenizer.ggml.model"] = std::string("bert");
  refused("'bert'");
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
