#pragma once
// Vocabularies for tests: where the reference files are, and a small one made here.

#include <cstdlib>
#include <memory>
#include <string>

#include "src/engine/tokenizer.h"

namespace test {

inline std::string reference_dir() {
  const char* env = std::getenv("AUTORESEARCH_REFERENCE");
  return env ? env : std::string(AR_SOURCE_DIR) + "/../shared/reference";
}

// Sanitizers slow everything, and an emulated machine more; limits in seconds grow with them.
inline double time_limit(double seconds) {
#if defined(AR_EMULATED)
  return seconds * 20;
#elif defined(__SANITIZE_ADDRESS__)
  return seconds * 10;
#else
  return seconds;
#endif
}

// <unk> <s> </s>, 256 byte tokens, some letters and pairs, and ChatML's specials.
inline gguf::File small_vocabulary_file() {
  auto tokens = std::make_shared<gguf::Array>(), scores = std::make_shared<gguf::Array>(),
       types = std::make_shared<gguf::Array>();
  auto add = [&](const std::string& text, double score, int type) {
    tokens->strings.push_back(text);
    scores->floats.push_back(score);
    types->ints.push_back(type);
  };
  add("<unk>", 0, 2);
  add("<s>", 0, 3);
  add("</s>", 0, 3);
  constexpr char kHex[] = "0123456789ABCDEF";
  for (int i = 0; i < 256; ++i) {
    add(std::string("<0x") + kHex[i / 16] + kHex[i % 16] + ">", 0, 6);
  }
  add("\xE2\x96\x81", -9, 1);
  for (char c = 'a'; c <= 'z'; ++c) {
    add(std::string(1, c), -10, 1);
  }
  add("ab", -1, 1);
  add("bc", -2, 1);
  add("aa", -3, 1);
  add("<|im_start|>", 0, 3);
  add("<|im_end|>", 0, 3);
  add("<|im", 0, 3);
  gguf::File file;
  file.metadata["tokenizer.ggml.model"] = std::string("llama");
  file.metadata["tokenizer.ggml.tokens"] = std::shared_ptr<const gguf::Array>(tokens);
  file.metadata["tokenizer.ggml.scores"] = std::shared_ptr<const gguf::Array>(scores);
  file.metadata["tokenizer.ggml.token_type"] = std::shared_ptr<const gguf::Array>(types);
  file.metadata["tokenizer.ggml.bos_token_id"] = uint32_t{1};
  file.metadata["tokenizer.ggml.eos_token_id"] = uint32_t{2};
  return file;
}

inline engine::Tokenizer small_vocabulary() {
  return std::move(engine::Tokenizer::from_gguf(small_vocabulary_file(), "small")).value();
}

// Byte-level BPE: 256 bytes as GPT-2 spells them, a few merges, ChatML's specials, a user-defined token and a
// control token that is a word.
inline gguf::File small_bpe_vocabulary_file(const std::string& pre = "gpt-2") {
  auto tokens = std::make_shared<gguf::Array>(), merges = std::make_shared<gguf::Array>(),
       types = std::make_shared<gguf::Array>();
  auto add = [&](const std::string& text, int type) {
    tokens->strings.push_back(text);
    types->ints.push_back(type);
  };
  int other = 0x100;
  for (int b = 0; b < 256; ++b) {
    bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b != 0xAD);
    int point = printable ? b : other++;
    add(point < 0x80
            ? std::string(1, static_cast<char>(point))
            : std::string{static_cast<char>(0xC0 | point >> 6), static_cast<char>(0x80 | (point & 0x3F))},
        1);
  }
  for (const char* text : {"ab", "bc", "abc", "aa", "def"}) {
    add(text, 1);
  }
  add("<|im_start|>", 3);
  add("<|im_end|>", 3);
  add("<tool>", 4);
  add("xy", 3);
  merges->strings = {"b c", "a b", "a bc", "a a", "d e", "de f", "x y"};
  gguf::File file;
  file.metadata["tokenizer.ggml.model"] = std::string("gpt2");
  file.metadata["tokenizer.ggml.pre"] = pre;
  file.metadata["tokenizer.ggml.tokens"] = std::shared_ptr<const gguf::Array>(tokens);
  file.metadata["tokenizer.ggml.merges"] = std::shared_ptr<const gguf::Array>(merges);
  file.metadata["tokenizer.ggml.token_type"] = std::shared_ptr<const gguf::Array>(types);
  return file;
}

inline engine::Tokenizer small_bpe_vocabulary(const std::string& pre = "gpt-2") {
  return std::move(engine::Tokenizer::from_gguf(small_bpe_vocabulary_file(pre), "small")).value();
}

}  // namespace test
