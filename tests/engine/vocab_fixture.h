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

// Sanitizers slow everything; limits in seconds grow with them.
inline double time_limit(double seconds) {
#if defined(__SANITIZE_ADDRESS__)
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

}  // namespace test
