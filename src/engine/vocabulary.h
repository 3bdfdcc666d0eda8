#pragma once
// The tokens of a vocabulary, and the one thing that kinds of tokenizers differ in: how a stretch of text
// becomes tokens, and what text a token spells.

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace engine {

enum class TokenType : uint8_t {  // the numbers of tokenizer.ggml.token_type
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

struct Vocabulary {
  std::vector<std::string> tokens;  // as the file spells them
  std::vector<TokenType> types;
  std::unordered_map<std::string_view, int> index;  // views of tokens, which must not change any more
  size_t max_token_bytes = 0;
  int unknown = -1;  // stands for what nothing else spells; -1: none

  // The id of exactly this text, -1 for none.
  int find(std::string_view text) const {
    auto found = index.find(text);
    return found == index.end() ? -1 : found->second;
  }
};

// Immutable after construction, so every thread may use it. Keeps a reference to the vocabulary it was made of.
class TextCoder {
 public:
  virtual ~TextCoder() = default;
  // Appends the tokens of text that holds no special token. first: nothing, or a special token, stands before
  // it. Any bytes are fine; O(n log n).
  virtual void encode(std::string_view text, bool first, std::vector<int>& out) const = 0;
  // The bytes of a normal token as the vocabulary spells it.
  virtual std::string spelled(std::string_view token) const = 0;
};

}  // namespace engine
