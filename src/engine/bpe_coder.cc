#include "src/engine/bpe_coder.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>
#include <queue>

namespace engine {
namespace {

// GPT-2's alphabet: printable Latin-1 bytes are their own character, the others count up from U+0100.
struct Alphabet {
  std::array<std::string, 256> character;  // UTF-8
  std::array<int, 0x144> byte;             // of a code point, -1: not of the alphabet

  Alphabet() {
    byte.fill(-1);
    unsigned other = 0x100;
    for (unsigned b = 0; b < 256; ++b) {
      bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      unsigned point = printable ? b : other++;
      byte[point] = static_cast<int>(b);
      if (point < 0x80) {
        character[b] = std::string(1, static_cast<char>(point));
      } else {
        character[b] = {static_cast<char>(0xC0 | point >> 6), static_cast<char>(0x80 | (point & 0x3F))};
      }
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet one;
  return one;
}

uint64_t pair_key(int left, int right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

// A stretch of the piece being merged; a doubly linked list in an array. symbol -1: merged into its left
// neighbour.
struct Link {
  int prev, next, symbol;
};

struct Candidate {
  uint32_t rank;
  int left, right, left_symbol, right_symbol;  // the symbols when queued: tell stale entries
  int merged;
};
struct CandidateOrder {  // best first: lowest rank, then leftmost
  bool operator()(const Candidate& a, const Candidate& b) const {
    return a.rank != b.rank ? a.rank > b.rank : a.left > b.left;
  }
};

}  // namespace

struct BpeCoder::Scratch {
  std::vector<Link> links;
  std::vector<Candidate> heap;
  std::string whole;
};

base::Result<std::unique_ptr<BpeCoder>> BpeCoder::make(const Vocabulary& vocabulary,
                                                       std::span<const std::string> merges,
                                                       Pretokenizer pretokenizer, const std::string& where) {
  const size_t n = vocabulary.tokens.size();
  if (vocabulary.index.size() != n) {
    for (size_t i = 0; i < n; ++i) {
      if (int first = vocabulary.find(vocabulary.tokens[i]); first != static_cast<int>(i)) {
        return base::error(
            where,
            fmt::format("tokens {} and {} of the vocabulary are both '{}'", first, i, vocabulary.tokens[i]),
            "the file is damaged; convert the model again");
      }
    }
  }
  if (merges.empty() || merges.size() > (1u << 24)) {
    return base::error(where, fmt::format("tokenizer.ggml.merges has {} entries", merges.size()),
                       "the file is damaged; convert the model again");
  }
  std::unique_ptr<BpeCoder> out(new BpeCoder(vocabulary, std::move(pretokenizer)));
  // Symbols by their text. A control token is a token only where the text is parsed for one, never the end of a merge.
  FlatTable<int> symbols;
  symbols.reserve(n + merges.size() / 8);
  const std::hash<std::string_view> hash;
  for (size_t i = 0; i < n; ++i) {
    if (vocabulary.types[i] != TokenType::kControl) {
      symbols.insert(hash(vocabulary.tokens[i]), static_cast<int>(i));
    }
  }
  auto symbol_of = [&](std::string_view text) {
    const uint64_t key = hash(text);
    const int* found = symbols.find(key, [&](int symbol) {
      const auto at = static_cast<size_t>(symbol);
      return text == (at < n ? vocabulary.tokens[at] : out->other_symbols_[at - n]);
    });
    if (found != nullptr) {
      return *found;
    }
    const int added = static_cast<int>(n + out->other_symbols_.size());
    out->other_symbols_.emplace_back(text);
    symbols.insert(key, added);
    return added;
  };
  for (size_t b = 0; b < 256; ++b) {
    out->byte_symbols_[b] = symbol_of(alphabet().character[b]);
  }
  out->merges_.reserve(merges.size());
  std::string whole;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    std::string_view merge = merges[rank];
    size_t space = merge.find(' ', 1);  // the first part may be a space itself
    if (merge.size() < 3 || space == std::string_view::npos || space + 1 >= merge.size()) {
      return base::error(where, fmt::format("tokenizer.ggml.merges[{}] is '{}', not two parts", rank, merge),
                         "the file is damaged; convert the model again");
    }
    std::string_view left = merge.substr(0, space), right = merge.substr(space + 1);
    if (left.size() + right.size() > vocabulary.max_token_bytes) {
      return base::error(where,
                         fmt::format("tokenizer.ggml.merges[{}] makes {} bytes, the longest token has {}",
                                     rank, left.size() + right.size(), vocabulary.max_token_bytes),
                         "the file is damaged; convert the model again");
    }
    whole.assign(left);
    whole += right;
    const int merged = symbol_of(whole);
    const uint64_t pair = pair_key(symbol_of(left), symbol_of(right));
    if (out->merges_.find(pair) == nullptr) {  // of equals the best counts
      out->merges_.insert(pair, Merged{static_cast<uint32_t>(rank), merged});
    }
  }
  return out;
}

const BpeCoder::Merged* BpeCoder::merge_of(int left, int right) const {
  return merges_.find(pair_key(left, right));
}

void BpeCoder::encode(std::string_view text, bool /*first*/, std::vector<int>& out) const {
  Scratch scratch;
  for (std::string_view piece : pretokenizer_.split(text)) {
    encode_piece(piece, scratch, out);
  }
}

void BpeCoder::encode_piece(std::string_view piece, Scratch& scratch, std::vector<int>& out) const {
  if (pretokenizer_.ignore_merges() && piece.size() <= vocabulary_.max_token_bytes) {
    scratch.whole.clear();
    for (unsigned char c : piece) {
      scratch.whole += alphabet().character[c];
    }
    int token = vocabulary_.find(scratch.whole);
    if (token >= 0 && vocabulary_.types[static_cast<size_t>(token)] != TokenType::kControl) {
      out.push_back(token);
      return;
    }
  }
  std::vector<Link>& links = scratch.links;
  std::vector<Candidate>& heap = scratch.heap;
  links.clear();
  heap.clear();
  const int n = static_cast<int>(piece.size());
  for (int i = 0; i < n; ++i) {
    int symbol = byte_symbols_[static_cast<unsigned char>(piece[static_cast<size_t>(i)])];
    links.push_back({i - 1, i + 1 < n ? i + 1 : -1, symbol});
  }
  auto link = [&](int i) -> Link& { return links[static_cast<size_t>(i)]; };
  auto consider = [&](int left, int right) {
    if (left < 0 || right < 0) {
      return;
    }
    if (const Merged* merged = merge_of(link(left).symbol, link(right).symbol)) {
      heap.push_back({merged->rank, left, right, link(left).symbol, link(right).symbol, merged->symbol});
      std::push_heap(heap.begin(), heap.end(), CandidateOrder());
    }
  };
  for (int i = 1; i < n; ++i) {
    consider(i - 1, i);
  }
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), CandidateOrder());
    Candidate best = heap.back();
    heap.pop_back();
    Link &a = link(best.left), &b = link(best.right);
    if (a.symbol != best.left_symbol || b.symbol != best.right_symbol || a.next != best.right) {
      continue;  // one side has been merged since
    }
    a.symbol = best.merged;
    a.next = b.next;
    b.symbol = -1;
    if (b.next >= 0) {
      link(b.next).prev = best.left;
    }
    consider(a.prev, best.left);
    consider(best.left, a.next);
  }
  const int n_vocab = static_cast<int>(vocabulary_.tokens.size());
  for (int i = 0; i >= 0; i = link(i).next) {
    int symbol = link(i).symbol;
    if (symbol < n_vocab) {
      out.push_back(symbol);
      continue;
    }
    // No token: its bytes, those that are none dropped.
    size_t begin = static_cast<size_t>(i);
    size_t end = link(i).next >= 0 ? static_cast<size_t>(link(i).next) : piece.size();
    for (size_t k = begin; k < end; ++k) {
      if (int byte = byte_symbols_[static_cast<unsigned char>(piece[k])]; byte < n_vocab) {
        out.push_back(byte);
      }
    }
  }
}

std::string BpeCoder::spelled(std::string_view token) const {
  std::string out;
  for (size_t i = 0; i < token.size();) {
    auto first = static_cast<unsigned char>(token[i]);
    unsigned point = first;
    size_t size = 1;
    if (first >= 0xC2 && first <= 0xC5 && i + 1 < token.size()) {
      point = (first & 0x1Fu) << 6 | (static_cast<unsigned char>(token[i + 1]) & 0x3Fu);
      size = 2;
    }
    int byte = (first < 0x80 || size == 2) && point < alphabet().byte.size() ? alphabet().byte[point] : -1;
    if (byte >= 0) {
      out.push_back(static_cast<char>(byte));
    } else {
      out += token.substr(i, size);  // a token that is not spelled in the alphabet is its own text
    }
    i += size;
  }
  return out;
}

}  // namespace engine
