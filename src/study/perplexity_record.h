#pragma once
// Perplexity in a study: what a trial's record holds of it, and back from a journal. Pure.

#include <map>
#include <optional>
#include <string>

#include "src/study/trial.h"

namespace study {

struct PerplexityMeasured {
  base::Json record;                     // JOURNAL.md: perplexity
  std::map<std::string, double> values;  // ppl, and ppl_change where it is compared
};
// `reference`: the default's losses; nullptr before there are any. `is_default`: this is the default itself, whose
// change is 0. Losses that do not pair with the reference's (another tokenizer, say) give a ppl alone, and a reason. The
// losses themselves, up to a megabyte, are in the record only of what others may be compared with: the default, and
// trials before it.
PerplexityMeasured perplexity_record(const ProbeOptions& probes, const probes::PromptLosses& losses,
                                     const LossReference* reference, bool is_default);

// The losses of a record that was measured here; nullopt of one that cites, has none, or is damaged.
std::optional<LossReference> losses_of(const base::Json& record);
// The record as a trial cites it.
base::Json without_losses(base::Json record);

// Whether the objective or a limit names ppl or ppl_change.
bool perplexity_decides(const Objective& objective);

inline constexpr const char* kLlamaServerGivesNone = "llama-server gives no prompt log-probabilities";
// Why this server will give no log-probabilities of a prompt, as far as that is known before a trial; "" = it may.
// Asks a server that is running already.
std::string no_perplexity(const Study& study, const ServerProgram& program);

}  // namespace study
