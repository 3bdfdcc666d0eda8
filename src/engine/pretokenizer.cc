#include "src/engine/pretokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "src/base/check.h"
#include "src/engine/utf8.h"

namespace engine {
namespace {

// Steps from one start of a match, and how much of the text is looked at when they did not suffice: only a run
// of a hundred thousand spaces or capitals gets there.
constexpr uint32_t kMatchLimit = 1u << 20;
constexpr size_t kCut = 1u << 16;

// What the rules are made of; \p and \s are Unicode's.
#define CONTRACTION R"((?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]))"
#define WORD R"([^\r\n\p{L}\p{N}]?\p{L}+)"
#define OTHERS R"( ?[^\s\p{L}\p{N}]+[\r\n]*)"
#define SPACES R"(\s*[\r\n]+|\s+(?!\S)|\s+)"
#define GPT2 R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S))"
// "A letter that is not a-z" stands for upper case and "not A-Z" for lower, as in llama.cpp, whose ids we match.
#define CASED R"([^\r\n\p{L}\p{N}]?[^\P{L}a-z]*[^\P{L}A-Z]+)"
#define CAPITALS R"([^\r\n\p{L}\p{N}]?[^\P{L}a-z]+[^\P{L}A-Z]*)"
#define SYMBOLS R"( ?[^\s\p{L}\p{N}]+[\r\n/]*)"
#define HAN_HANGUL R"([\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+)"

constexpr const char* kDeepseekLetters =
    R"(\s?[A-Za-z)"
    R"(\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF})"
    R"(\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C})"
    R"(\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5})"
    R"(\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B})"
    R"(\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45})"
    R"(\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4})"
    R"(\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3})"
    R"(\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107})"
    R"(\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D})"
    R"(\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184})"
    R"(\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D})"
    R"(\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF})"
    R"(\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F})"
    R"(\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2})"
    R"(\x{118A0}-\x{118DF}\x{1E900}-\x{1E943})"
    "]+";

struct Row {
  std::string_view name, aliases;  // aliases: blank-separated, a blank at both ends
  bool ignore_merges, adds_bos;
  std::array<const char*, 6> patterns;  // in turn, each within the pieces of the one before; nullptr: no more
};

constexpr Row kRows[] = {
    {"llama-bpe",
     " llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano ",
     true,
     true,
     {CONTRACTION "|" WORD R"(|\p{N}{1,3}|)" OTHERS "|" SPACES}},
    {"glm4",
     " chatglm-bpe smaug-bpe dbrx ",
     false,
     false,
     {CONTRACTION "|" WORD R"(|\p{N}{1,3}|)" OTHERS "|" SPACES}},
    {"qwen2",
     " deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 ",
     false,
     false,
     {CONTRACTION "|" WORD R"(|\p{N}|)" OTHERS "|" SPACES}},
    {"qwen35",
     " ",
     false,
     false,
     {CONTRACTION R"(|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|)" SPACES}},
    {"gpt-2", " phi-2 mellum exaone4 gigachat a.x-4.0 modern-bert mpt olmo jais ", false, false, {GPT2}},
    {"starcoder", " refact command-r smollm codeshell exaone ", false, false, {R"(\p{N})", GPT2}},
    {"gpt-4o",
     " llama4 kanana2 minimax-m2 ",
     false,
     false,
     {CASED CONTRACTION "?|" CAPITALS CONTRACTION R"(?|\p{N}{1,3}|)" SYMBOLS "|" SPACES}},
    {"tekken", " ", true, true, {CASED "|" CAPITALS R"(|\p{N}|)" SYMBOLS "|" SPACES}},
    // The ideographic space counts as a space before it counts as punctuation. Trailing spaces are looked for
    // only where a run of them starts, or a long run inside the text would take quadratic time.
    {"deepseek-llm",
     " ",
     false,
     false,
     {R"([\r\n])", kDeepseekLetters,
      R"(\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3001}-\x{3002}]+)",
      R"((?<!\s)\s++\z)", HAN_HANGUL, R"(\p{N}+)"}},
    {"deepseek-coder",
     " ",
     false,
     false,
     {R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)", HAN_HANGUL, R"(\p{N})"}},
    {"deepseek-v3",
     " hunyuan-dense joyai-llm ",
     false,
     false,
     {R"(\p{N}{1,3})", R"([\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+)",
      R"([!-/:-@\[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|)" SPACES}},
    {"falcon", " ", false, false, {R"([\p{P}$+<=>^~|`]+)", GPT2, "[0-9][0-9][0-9]"}},
    {"default", " ", false, false, {R"([\p{P}$+<=>^~|]+)", GPT2, R"(\p{N}+)", "[0-9][0-9][0-9]"}},
};

struct FreeCode {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct FreeMatch {
  void operator()(pcre2_match_data* match) const { pcre2_match_data_free(match); }
};
struct FreeContext {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

// The end of a cut at most kCut long that divides no character.
size_t cut_after(std::string_view text, size_t at) {
  size_t end = std::min(text.size(), at + kCut);
  while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) {
    --end;
  }
  return end;
}

}  // namespace

struct Pretokenizer::Rules {
  const Row* row = nullptr;
  std::vector<std::unique_ptr<pcre2_code, FreeCode>> codes;
  std::unique_ptr<pcre2_match_context, FreeContext> context;

  // Appends the pieces of valid UTF-8: the matches, and what lies between.
  void split_by(const pcre2_code* code, pcre2_match_data* match, std::string_view text,
                std::vector<std::string_view>& out) const {
    const auto* bytes = reinterpret_cast<const unsigned char*>(text.data());
    for (size_t at = 0; at < text.size();) {
      int result = pcre2_match(code, bytes, text.size(), at, PCRE2_NO_UTF_CHECK, match, context.get());
      if (result < 0 && result != PCRE2_ERROR_NOMATCH) {  // more steps than allowed
        size_t end = cut_after(text, at);
        out.push_back(text.substr(at, end - at));
        at = end;
        continue;
      }
      const size_t* range = pcre2_get_ovector_pointer(match);
      if (result < 0 || range[1] <= range[0]) {
        out.push_back(text.substr(at));
        return;
      }
      if (range[0] > at) {
        out.push_back(text.substr(at, range[0] - at));
      }
      out.push_back(text.substr(range[0], range[1] - range[0]));
      at = range[1];
    }
  }
};

Pretokenizer::Pretokenizer(std::shared_ptr<const Rules> rules) : rules_(std::move(rules)) {}

base::Result<Pretokenizer> Pretokenizer::find(std::string_view name, const std::string& where) {
  std::string alias = fmt::format(" {} ", name), known;
  const Row* row = nullptr;
  for (const Row& candidate : kRows) {
    if (candidate.name == name ||
        (!name.empty() && candidate.aliases.find(alias) != std::string_view::npos)) {
      row = &candidate;
    }
    known += fmt::format("{}{}", known.empty() ? "" : " ", candidate.name);
  }
  if (!row) {
    return base::error(where, fmt::format("tokenizer.ggml.pre is '{}', which is not supported", name),
                       fmt::format("use a model whose vocabulary names one of: {}", known));
  }
  auto rules = std::make_shared<Rules>();
  rules->row = row;
  rules->context.reset(pcre2_match_context_create(nullptr));
  AR_CHECK(rules->context, "no memory for a match context");
  pcre2_set_match_limit(rules->context.get(), kMatchLimit);
  for (const char* pattern : row->patterns) {
    if (!pattern) {
      break;
    }
    int failure = 0;
    size_t offset = 0;
    rules->codes.emplace_back(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern), PCRE2_ZERO_TERMINATED,
                                            PCRE2_UTF | PCRE2_UCP, &failure, &offset, nullptr));
    AR_CHECK(rules->codes.back(), "a rule of ours does not compile");
    // Several times faster where the system allows it; without it the interpreter does the same.
    pcre2_jit_compile(rules->codes.back().get(), PCRE2_JIT_COMPLETE);
  }
  return Pretokenizer(std::move(rules));
}

bool Pretokenizer::ignore_merges() const {
  return rules_->row->ignore_merges;
}

bool Pretokenizer::adds_bos() const {
  return rules_->row->adds_bos;
}

std::vector<std::string_view> Pretokenizer::split(std::string_view text) const {
  std::unique_ptr<pcre2_match_data, FreeMatch> match(pcre2_match_data_create(1, nullptr));
  AR_CHECK(match, "no memory for match data");
  std::vector<std::string_view> out, pieces, next;
  while (!text.empty()) {
    size_t valid = valid_utf8_prefix(text);
    if (valid > 0) {
      pieces.assign(1, text.substr(0, valid));
      for (const auto& code : rules_->codes) {
        next.clear();
        for (std::string_view piece : pieces) {
          rules_->split_by(code.get(), match.get(), piece, next);
        }
        pieces.swap(next);
      }
      out.insert(out.end(), pieces.begin(), pieces.end());
    }
    text.remove_prefix(valid);
    size_t invalid = 0;
    while (invalid < text.size() && valid_utf8_prefix(text.substr(invalid, 4)) == 0) {
      ++invalid;
    }
    if (invalid > 0) {
      out.push_back(text.substr(0, invalid));
      text.remove_prefix(invalid);
    }
  }
  return out;
}

}  // namespace engine
