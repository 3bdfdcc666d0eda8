#include "src/study/space_probes.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <set>

#include "src/os/files.h"

namespace study {
namespace {

constexpr uint64_t kMaxSuite = 4 << 20;
// Of a perplexity: fewer scored tokens are no verdict; more would make records of megabytes.
constexpr int64_t kLeastTokens = 256, kMostTokens = 1 << 17;
constexpr int64_t kLeastBytesPerToken = 3;
constexpr int kPromptOverhead = 64;  // tokens of question and chat template around a needle's filler

class ProbesReader {
 public:
  ProbesReader(SpaceReader& reader, ProbeOptions& options) : reader_(reader), options_(options) {}

  const YamlNode* read(const YamlNode& at) {
    options_.quality = at.find("quality") != nullptr;
    reader_.read_map(at, "probes",
                     {{"quality", [&](const YamlNode& value) { read_quality(value); }},
                      {"speed", [&](const YamlNode& value) { read_speed(value); }},
                      {"needle", [&](const YamlNode& value) { read_needle(value); }},
                      {"curve", [&](const YamlNode& value) { read_curve(value); }},
                      {"perplexity", [&](const YamlNode& value) { read_perplexity(value); }},
                      {"memory",
                       [&](const YamlNode& value) {
                         reader_.read_map(value, "probes.memory",
                                          {{"min_headroom_gib", [&](const YamlNode& gib) {
                                              options_.min_headroom_gib =
                                                  reader_
                                                      .number(gib, "probes.memory.min_headroom_gib", 0, 4096)
                                                      .value_or(options_.min_headroom_gib);
                                            }}});
                       }},
                      {"request_timeout",
                       [&](const YamlNode& value) {
                         reader_.timeout_s(value, options_.request_timeout_s, "probes.request_timeout");
                       }},
                      {"stall_timeout", [&](const YamlNode& value) {
                         reader_.timeout_s(value, options_.stall_timeout_s, "probes.stall_timeout");
                       }}});
    return lengths_at_;
  }

 private:
  // `off` in place of a probe's map switches it off.
  bool switched_off(const YamlNode& at, bool& flag) {
    if (at.kind == YamlNode::Kind::kScalar && (at.text == "off" || at.text == "false")) {
      flag = false;
    }
    return !flag;
  }

  std::function<void(const YamlNode&)> whole_into(int& into, std::string name, int least, int most) {
    return [this, &into, name = std::move(name), least, most](const YamlNode& value) {
      into = static_cast<int>(reader_.whole(value, name, least, most).value_or(into));
    };
  }

  std::function<void(const YamlNode&)> seconds_into(double& into, std::string name) {
    return [this, &into, name = std::move(name)](const YamlNode& value) {
      reader_.timeout_s(value, into, name);
    };
  }

  std::function<void(const YamlNode&)> number_into(double& into, std::string name, double unit) {
    return [this, &into, name = std::move(name), unit](const YamlNode& value) {
      if (auto number = reader_.number(value, name, 0, 1e9)) {
        into = *number * unit;
      }
    };
  }

  // `off` is what it is without this section.
  void read_curve(const YamlNode& at) {
    bool on = true;
    if (switched_off(at, on)) {
      return;
    }
    probes::CurveInputs& inputs = options_.curve_inputs;
    auto depths = [&](const YamlNode& value) {
      std::set<int> ascending;
      for (const YamlNode* item : reader_.list(value, "probes.curve.depths")) {
        if (auto depth = reader_.whole(*item, "probes.curve.depths", 32, 1 << 24)) {
          ascending.insert(static_cast<int>(*depth));
        }
      }
      options_.curve.depths.assign(ascending.begin(), ascending.end());
      if (ascending.size() < 3) {
        reader_.fail(value, "probes.curve.depths wants three different depths or more",
                     "write depths: [1000, 4000, 16000, 32000]");
      }
    };
    reader_.read_map(
        at, "probes.curve",
        {{"depths", depths},
         {"active_gib", number_into(inputs.weight_bytes, "probes.curve.active_gib", 1 << 30)},
         {"kv_kib_per_token",
          number_into(inputs.kv_bytes_per_token, "probes.curve.kv_kib_per_token", 1 << 10)},
         {"bandwidth_gb_s", number_into(inputs.device_bytes_per_s, "probes.curve.bandwidth_gb_s", 1e9)}});
    if (at.kind == YamlNode::Kind::kMap && at.find("depths") == nullptr) {
      reader_.fail(at, "probes.curve has no depths",
                   "add depths: [1000, 4000, 16000, 32000], or leave it out");
    }
  }

  // `off` is what it is without this section.
  void read_perplexity(const YamlNode& at) {
    options_.perplexity = true;
    if (switched_off(at, options_.perplexity)) {
      return;
    }
    probes::PromptLossOptions& losses = options_.prompt_losses;
    const YamlNode* corpus = nullptr;
    reader_.read_map(at, "probes.perplexity",
                     {{"corpus", [&](const YamlNode& value) { corpus = &value; }},
                      {"n_ctx", whole_into(losses.n_ctx, "probes.perplexity.n_ctx", 32, 1 << 20)},
                      {"chunks", whole_into(losses.chunks, "probes.perplexity.chunks", 1, 4096)},
                      {"margin", [&](const YamlNode& value) {
                         options_.perplexity_margin =
                             reader_.number(value, "probes.perplexity.margin", 1e-6, 10)
                                 .value_or(options_.perplexity_margin);
                       }}});
    if (at.kind != YamlNode::Kind::kMap) {
      return;
    }
    int64_t tokens = int64_t{losses.n_ctx} * losses.chunks;
    if (tokens / 2 < kLeastTokens || tokens > kMostTokens) {
      reader_.fail(at,
                   fmt::format("{} chunks of {} tokens are {} tokens; the second half of each is scored",
                               losses.chunks, losses.n_ctx, tokens),
                   fmt::format("write n_ctx and chunks whose product is from {} to {}", 2 * kLeastTokens,
                               kMostTokens));
    } else if (corpus == nullptr) {
      reader_.fail(at, "probes.perplexity has no corpus",
                   "add corpus: FILE, a plain text in the model's language, or write perplexity: off");
    } else {
      read_corpus(*corpus, tokens);
    }
  }

  void read_corpus(const YamlNode& at, int64_t tokens) {
    auto path = reader_.expanded(at, "probes.perplexity.corpus");
    if (!path) {
      return;
    }
    options_.perplexity_corpus = reader_.resolve(*path);
    // The beginning is enough: no token is longer than this on average.
    auto text = os::read_head(options_.perplexity_corpus, static_cast<uint64_t>(tokens) * 16);
    if (!text) {
      reader_.fail(at, fmt::format("the corpus cannot be read: {}", text.failure().to_string()),
                   "give its path relative to this file");
    } else if (text->size() < static_cast<size_t>(tokens * kLeastBytesPerToken)) {
      reader_.fail(at, fmt::format("the corpus has {} bytes, too few for {} tokens", text->size(), tokens),
                   "take a longer text, or fewer chunks");
    } else {
      options_.prompt_losses.text = std::move(*text);
    }
  }

  void read_quality(const YamlNode& at) {
    if (switched_off(at, options_.quality)) {
      return;
    }
    reader_.read_map(
        at, "probes.quality",
        {{"suite", [&](const YamlNode& value) { read_suite(value); }},
         {"max_thinking_tokens", whole_into(options_.quality_options.max_thinking_tokens,
                                            "probes.quality.max_thinking_tokens", 0, 1 << 20)},
         {"max_answer", seconds_into(options_.quality_options.max_answer_s, "probes.quality.max_answer")},
         {"margin", [&](const YamlNode& value) {
            options_.quality_margin =
                reader_.number(value, "probes.quality.margin", 0, 1).value_or(options_.quality_margin);
          }}});
    if (at.kind == YamlNode::Kind::kMap && at.find("suite") == nullptr) {
      reader_.fail(at, "probes.quality has no suite",
                   "add suite: prompts/known-answer.json, or write quality: off");
    }
  }

  void read_suite(const YamlNode& at) {
    auto path = reader_.expanded(at, "probes.quality.suite");
    if (!path) {
      return;
    }
    options_.quality_suite = reader_.resolve(*path);
    auto text = os::read_file(options_.quality_suite, kMaxSuite);
    if (!text) {
      reader_.fail(at, fmt::format("the suite cannot be read: {}", text.failure().to_string()),
                   "give its path relative to this file");
      return;
    }
    auto items = probes::parse_suite(*text, options_.quality_suite);
    if (!items) {
      reader_.fail(at, items.failure().to_string(), "correct the suite");
      return;
    }
    options_.quality_items = std::move(*items);
  }

  void read_speed(const YamlNode& at) {
    probes::SpeedOptions& speed = options_.speed_options;
    if (switched_off(at, options_.speed)) {
      return;
    }
    reader_.read_map(at, "probes.speed",
                     {{"n_prompt", whole_into(speed.n_prompt, "probes.speed.n_prompt", 1, 1 << 24)},
                      {"n_gen", whole_into(speed.n_gen, "probes.speed.n_gen", 2, 1 << 20)},
                      {"repeats", whole_into(speed.repeats, "probes.speed.repeats", 1, 100)},
                      {"warmups", whole_into(speed.warmups, "probes.speed.warmups", 0, 100)}});
  }

  void read_needle(const YamlNode& at) {
    probes::NeedleOptions& needle = options_.needle_options;
    if (switched_off(at, options_.needle)) {
      return;
    }
    auto lengths = [&](const YamlNode& value) {
      needle.lengths.clear();
      for (const YamlNode* item : reader_.list(value, "probes.needle.lengths")) {
        if (auto length = reader_.whole(*item, "probes.needle.lengths", 32, 1 << 24)) {
          needle.lengths.push_back(static_cast<int>(*length));
        }
      }
      lengths_at_ = &value;
    };
    auto depths = [&](const YamlNode& value) {
      needle.depths.clear();
      for (const YamlNode* item : reader_.list(value, "probes.needle.depths")) {
        if (auto depth = reader_.number(*item, "probes.needle.depths", 0, 1)) {
          needle.depths.push_back(*depth);
        }
      }
    };
    reader_.read_map(
        at, "probes.needle",
        {{"lengths", lengths},
         {"depths", depths},
         {"per_cell", whole_into(needle.per_cell, "probes.needle.per_cell", 1, 1000)},
         {"max_thinking_tokens",
          whole_into(needle.max_thinking_tokens, "probes.needle.max_thinking_tokens", 0, 1 << 20)},
         {"max_answer", seconds_into(needle.max_answer_s, "probes.needle.max_answer")},
         {"seed", [&](const YamlNode& value) {
            needle.seed =
                static_cast<uint64_t>(reader_.whole(value, "probes.needle.seed", 0, INT64_MAX).value_or(1));
          }}});
  }

  SpaceReader& reader_;
  ProbeOptions& options_;
  const YamlNode* lengths_at_ = nullptr;
};

}  // namespace

const YamlNode* read_probes(SpaceReader& reader, const YamlNode& node, ProbeOptions& options) {
  return ProbesReader(reader, options).read(node);
}

void check_context(SpaceReader& reader, const YamlNode& probes_at, const Study& study) {
  const search::Axis* ctx = study.space.find("ctx_size");
  const YamlNode* at = probes_at.find("perplexity");
  const auto* smallest = ctx == nullptr ? nullptr : std::get_if<int64_t>(&ctx->values.front());
  if (at != nullptr && study.probes.perplexity && smallest != nullptr && *smallest > 0 &&
      study.probes.prompt_losses.n_ctx >= *smallest) {
    reader.fail(*at,
                fmt::format("a chunk of {} tokens does not fit the smallest ctx_size, {}",
                            study.probes.prompt_losses.n_ctx, *smallest),
                fmt::format("write an n_ctx of at most {}", *smallest - 1));
  }
}

void check_needle_lengths(SpaceReader& reader, const YamlNode* lengths_at, const Study& study) {
  const search::Axis* ctx = study.space.find("ctx_size");
  const auto& lengths = study.probes.needle_options.lengths;
  if (ctx == nullptr || lengths_at == nullptr || lengths.empty()) {
    return;
  }
  int longest = *std::max_element(lengths.begin(), lengths.end());
  const auto* smallest = std::get_if<int64_t>(&ctx->values.front());
  if (smallest != nullptr && *smallest > 0 && longest + kPromptOverhead > *smallest) {
    reader.fail(
        *lengths_at,
        fmt::format("a needle of {} tokens does not fit the smallest ctx_size, {}", longest, *smallest),
        fmt::format("write at most {}", *smallest - kPromptOverhead));
  }
}

}  // namespace study
