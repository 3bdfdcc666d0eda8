#include "probes/needle.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <iterator>

#include "probes/filler.h"
#include "probes/quality.h"
#include "src/base/mix.h"
#include "src/os/http_client.h"

namespace probes {
namespace {

using base::Json;

constexpr std::pair<NeedleVerdict, std::string_view> kVerdicts[] = {{NeedleVerdict::kFound, "found"},
                                                                    {NeedleVerdict::kWrong, "wrong"},
                                                                    {NeedleVerdict::kRefused, "refused"},
                                                                    {NeedleVerdict::kTimedOut, "timed_out"},
                                                                    {NeedleVerdict::kError, "error"}};

// The demo model was trained on facts of this form (models/demo/tasks.py); any larger model understands them too.
constexpr std::string_view kThings[] = {"secret code", "password", "access number", "passphrase"};
constexpr std::string_view kAdjectives[] = {
    "red",    "blue",  "green",  "old",   "hidden", "lower", "upper",   "small",   "large",  "silver",
    "golden", "quiet", "broken", "royal", "inner",  "outer", "ancient", "central", "distant"};
constexpr std::string_view kPlaces[] = {"vault",   "gate",   "archive",     "tower",    "laboratory",
                                        "station", "garden", "bridge",      "harbor",   "cellar",
                                        "museum",  "castle", "tunnel",      "workshop", "temple",
                                        "kitchen", "market", "observatory", "warehouse"};

template <size_t N>
std::string_view pick(const std::string_view (&list)[N], uint64_t random) {
  return list[random % N];
}

// Lower case, words apart by one blank, nothing else.
std::string normal_form(std::string_view text) {
  std::string result;
  for (char c : text) {
    bool keep =
        std::isalnum(static_cast<unsigned char>(c)) != 0 || (static_cast<unsigned char>(c) & 0x80) != 0;
    if (keep) {
      result += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    } else if (!result.empty() && result.back() != ' ') {
      result += ' ';
    }
  }
  while (!result.empty() && result.back() == ' ') {
    result.pop_back();
  }
  return result;
}

// "48 213" and "48,213" as "48213": a grader must not grade typography.
std::string join_digits(std::string_view text) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    bool between = i > 0 && i + 1 < text.size() &&
                   std::isdigit(static_cast<unsigned char>(text[i - 1])) != 0 &&
                   std::isdigit(static_cast<unsigned char>(text[i + 1])) != 0;
    if (!(between && (text[i] == ' ' || text[i] == ',' || text[i] == '-'))) {
      result += text[i];
    }
  }
  return result;
}

bool is_fatal(const base::Error& error) {
  os::HttpFault fault = os::http_fault(error);
  return fault != os::HttpFault::kStatus && fault != os::HttpFault::kTimedOut &&
         fault != os::HttpFault::kNoData;
}

base::Result<NeedleRow> run_cell(const Endpoint& endpoint, const NeedleOptions& options, int cell, int length,
                                 double depth) {
  NeedleRow row;
  row.length = length;
  row.depth = depth;
  // The chat template adds a few tokens of its own around the message.
  int aim = length - std::min(length / 16, 32);
  auto text = text_of_length(endpoint, aim, [&](int sentences) {
    return make_needle_prompt(options.seed, cell, sentences, depth).text;
  });
  if (!text) {
    return text.failure();
  }
  row.expected = make_needle_prompt(options.seed, cell, 1, depth).expected;
  auto generation = chat(endpoint, {{"user", *text}},
                         Budget{options.max_tokens, options.max_thinking_tokens, options.max_answer_s});
  if (generation) {
    row.verdict = score_needle(row.expected, *generation);
    row.answer = clip(generation->content, 200);
    row.prompt_tokens = generation->prompt_tokens;
    return row;
  }
  if (is_fatal(generation.failure())) {
    return generation.failure();
  }
  row.prompt_tokens = -1;  // not one token came
  row.verdict = os::http_fault(generation.failure()) == os::HttpFault::kStatus ? NeedleVerdict::kError
                                                                               : NeedleVerdict::kTimedOut;
  row.answer = clip(generation.failure().what, 200);
  return row;
}

}  // namespace

std::string_view to_string(NeedleVerdict verdict) {
  for (const auto& [value, name] : kVerdicts) {
    if (value == verdict) {
      return name;
    }
  }
  return "error";
}

NeedlePrompt make_needle_prompt(uint64_t seed, int cell, int sentences, double depth) {
  auto random = [&](uint64_t i) { return base::mix(seed, static_cast<uint64_t>(cell) * 16 + i); };
  std::string_view thing = pick(kThings, random(0));
  std::string place = fmt::format("{} {}", pick(kAdjectives, random(1)), pick(kPlaces, random(2)));
  NeedlePrompt prompt;
  prompt.expected = fmt::format("{}", 10000 + random(3) % 90000);
  int at = std::clamp(static_cast<int>(std::lround(depth * sentences)), 0, sentences);
  uint64_t filler = random(4);
  for (int i = 0; i <= sentences; ++i) {
    if (i == at) {
      prompt.text += fmt::format("The {} for the {} is {}. ", thing, place, prompt.expected);
    }
    if (i < sentences) {
      prompt.text += filler_sentence(filler, i) + " ";
    }
  }
  prompt.text += fmt::format("What is the {} for the {}?", thing, place);
  return prompt;
}

NeedleVerdict score_needle(std::string_view expected, const Generation& generation) {
  std::string wanted = normal_form(expected);
  for (const std::string& answer :
       {normal_form(generation.content), normal_form(join_digits(generation.content))}) {
    if (has_keyword(answer, wanted)) {
      return NeedleVerdict::kFound;
    }
  }
  if (is_refusal(generation.content)) {
    return NeedleVerdict::kRefused;
  }
  const std::string& reason = generation.finish_reason;
  bool silent = reason == "length" && normal_form(generation.content).empty();
  return silent || reason == "thinking_limit" || reason == "time_limit" ? NeedleVerdict::kTimedOut
                                                                        : NeedleVerdict::kWrong;
}

base::Result<NeedleResult> run_needle(const Endpoint& endpoint, const NeedleOptions& options) {
  NeedleResult result;
  int cell = 0, found = 0, silent = 0;
  for (int length : options.lengths) {
    for (double depth : options.depths) {
      for (int i = 0; i < options.per_cell; ++i, ++cell) {
        auto row = run_cell(endpoint, options, cell, length, depth);
        if (!row) {
          return row.failure();
        }
        bool hung = row->verdict == NeedleVerdict::kTimedOut && row->prompt_tokens < 0;
        row->prompt_tokens = std::max(0, row->prompt_tokens);
        silent = hung ? silent + 1 : 0;
        if (silent == 2) {
          return base::error(endpoint.base_url, row->answer, "the server has stopped answering");
        }
        found += row->verdict == NeedleVerdict::kFound ? 1 : 0;
        result.refused += row->verdict == NeedleVerdict::kRefused ? 1 : 0;
        result.timed_out += row->verdict == NeedleVerdict::kTimedOut ? 1 : 0;
        result.rows.push_back(std::move(*row));
      }
    }
  }
  result.recall =
      result.rows.empty() ? 0 : static_cast<double>(found) / static_cast<double>(result.rows.size());
  return result;
}

base::Json to_json(const NeedleResult& result) {
  Json json = {{"recall", result.recall},
               {"refused", result.refused},
               {"timed_out", result.timed_out},
               {"rows", Json::array()}};
  for (const NeedleRow& row : result.rows) {
    json["rows"].push_back({{"length", row.length},
                            {"depth", row.depth},
                            {"prompt_tokens", row.prompt_tokens},
                            {"verdict", to_string(row.verdict)},
                            {"expected", row.expected},
                            {"answer", row.answer}});
  }
  return json;
}

}  // namespace probes
