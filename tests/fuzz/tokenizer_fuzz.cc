// Any bytes as text: every vocabulary gives them back, and every token is one of its own. The first byte chooses the
// vocabulary and whether special tokens are looked for.

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "src/engine/utf8.h"
#include "tests/engine/vocab_fixture.h"

namespace {

// SentencePiece, then byte-level BPE with each family of rules.
const std::vector<engine::Tokenizer>& vocabularies() {
  static const std::vector<engine::Tokenizer> all = [] {
    std::vector<engine::Tokenizer> made;
    made.push_back(test::small_vocabulary());
    for (const char* pre :
         {"gpt-2", "llama-bpe", "qwen2", "minimax-m2", "gpt-4o", "deepseek-llm", "deepseek-v3", "default"}) {
      made.push_back(test::small_bpe_vocabulary(pre));
    }
    return made;
  }();
  return all;
}

std::string with_spaces(std::string_view text) {
  std::string out(text);
  constexpr std::string_view kSpelled = "\xE2\x96\x81";
  for (size_t at = 0; (at = out.find(kSpelled, at)) != std::string::npos; ++at) {
    out.replace(at, kSpelled.size(), " ");
  }
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) {
    return 0;
  }
  const size_t which = (data[0] & 0x7F) % vocabularies().size();
  const engine::Tokenizer& tokenizer = vocabularies()[which];
  const bool parse_special = (data[0] & 0x80) != 0, is_spm = which == 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const std::vector<int> tokens = tokenizer.encode(text, false, parse_special);
  for (const int token : tokens) {
    AR_CHECK(tokenizer.in_range(token), "a token outside the vocabulary");
  }
  const std::string back = tokenizer.decode(tokens, true);
  if (!is_spm) {
    AR_CHECK(back == text, "byte-level BPE gives every byte back");
  } else if (!parse_special && engine::is_valid_utf8(text)) {
    // It puts a space first, and after each special token; and a space is spelled U+2581, so that one comes back as the
    // other. A broken character swallows the beginning of a space that follows, as in llama.cpp.
    AR_CHECK(back == (text.empty() ? "" : " " + with_spaces(text)),
             "byte fallback gives every character back");
  }
  const std::vector<int> with_bos = tokenizer.encode(text, true, parse_special);
  AR_CHECK(with_bos.size() == tokens.size() + (tokenizer.adds_bos() ? 1 : 0),
           "BOS and nothing else is added");
  return 0;
}
