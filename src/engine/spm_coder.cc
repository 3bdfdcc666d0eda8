#include "src/engine/spm_coder.h"

#include <algorithm>
#include <charconv>
#include <queue>

#include "src/base/error.h"
#include "src/engine/utf8.h"

namespace engine {
namespace {

constexpr std::string_view kSpace = "\xE2\x96\x81";  // U+2581, what SentencePiece writes for a space

std::string with_escaped_spaces(std::string_view text, bool prefix) {
  std::string out;
  out.reserve(text.size() + 16);
  if (prefix) {
    out += kSpace;
  }
  for (char c : text) {
    if (c == ' ') {
      out += kSpace;
    } else {
      out.push_back(c);
    }
  }
  return out;
}

std::string with_plain_spaces(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    bool space = text.substr(at, kSpace.size()) == kSpace;
    out.push_back(space ? ' ' : text[at]);
    at += space ? kSpace.size() : 1;
  }
  return out;
}

// A stretch of the text being merged; a doubly linked list in an array.
struct Symbol {
  int prev, next;
  uint32_t start, size;  // size 0: merged into its left neighbour
};

struct Merge {
  float score;
  int left, right;
  uint32_t size;  // of both together, when queued: tells stale entries
};
struct MergeOrder {  // best first: highest score, then leftmost
  bool operator()(const Merge& a, const Merge& b) const {
    return a.score < b.score || (a.score == b.score && a.left > b.left);
  }
};

}  // namespace

int byte_of(std::string_view text) {
  unsigned value = 0;
  if (text.size() != 6 || !text.starts_with("<0x") || text.back() != '>') {
    return -1;
  }
  auto [end, failure] = std::from_chars(text.data() + 3, text.data() + 5, value, 16);
  return failure == std::errc() && end == text.data() + 5 ? static_cast<int>(value) : -1;
}

SpmCoder::SpmCoder(const Vocabulary& vocabulary, std::vector<float> scores, bool add_space_prefix)
    : vocabulary_(vocabulary), scores_(std::move(scores)), add_space_prefix_(add_space_prefix) {
  AR_CHECK(scores_.size() == vocabulary.tokens.size(), "a score for each token");
  byte_tokens_.assign(256, -1);
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    if (int byte = byte_of(vocabulary.tokens[i]); byte >= 0 && vocabulary.types[i] == TokenType::kByte) {
      byte_tokens_[static_cast<size_t>(byte)] = static_cast<int>(i);
    }
  }
}

void SpmCoder::encode(std::string_view plain, bool first, std::vector<int>& out) const {
  const std::string text = with_escaped_spaces(plain, add_space_prefix_ && first);
  std::vector<Symbol> symbols;
  symbols.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    size_t size = std::min(utf8_length(static_cast<unsigned char>(text[at])), text.size() - at);
    int i = static_cast<int>(symbols.size());
    symbols.push_back({i - 1, i + 1, static_cast<uint32_t>(at), static_cast<uint32_t>(size)});
    at += size;
  }
  if (symbols.empty()) {
    return;
  }
  symbols.back().next = -1;

  std::priority_queue<Merge, std::vector<Merge>, MergeOrder> queue;
  auto consider = [&](int left, int right) {
    if (left < 0 || right < 0) {
      return;
    }
    const Symbol &a = symbols[static_cast<size_t>(left)], &b = symbols[static_cast<size_t>(right)];
    uint32_t size = a.size + b.size;
    if (size > vocabulary_.max_token_bytes) {
      return;
    }
    if (int token = vocabulary_.find(std::string_view(text).substr(a.start, size)); token >= 0) {
      queue.push({scores_[static_cast<size_t>(token)], left, right, size});
    }
  };
  for (int i = 1; i < static_cast<int>(symbols.size()); ++i) {
    consider(i - 1, i);
  }
  while (!queue.empty()) {
    Merge merge = queue.top();
    queue.pop();
    Symbol &a = symbols[static_cast<size_t>(merge.left)], &b = symbols[static_cast<size_t>(merge.right)];
    if (a.size == 0 || b.size == 0 || a.size + b.size != merge.size) {
      continue;  // one side has been merged since
    }
    a.size = merge.size;
    a.next = b.next;
    b.size = 0;
    if (b.next >= 0) {
      symbols[static_cast<size_t>(b.next)].prev = merge.left;
    }
    consider(a.prev, merge.left);
    consider(merge.left, a.next);
  }
  for (int i = 0; i >= 0; i = symbols[static_cast<size_t>(i)].next) {
    const Symbol& symbol = symbols[static_cast<size_t>(i)];
    std::string_view piece = std::string_view(text).substr(symbol.start, symbol.size);
    if (int token = vocabulary_.find(piece); token >= 0) {
      out.push_back(token);
    } else {
      encode_bytes(piece, out);
    }
  }
}

void SpmCoder::encode_bytes(std::string_view text, std::vector<int>& out) const {
  for (char c : text) {
    int token = byte_tokens_[static_cast<unsigned char>(c)];
    if (token < 0) {
      token = vocabulary_.find(std::string_view(&c, 1));
    }
    if (token < 0) {
      token = vocabulary_.unknown;
    }
    if (token >= 0) {
      out.push_back(token);
    }
  }
}

std::string SpmCoder::spelled(std::string_view token) const {
  return with_plain_spaces(token);
}

}  // namespace engine
