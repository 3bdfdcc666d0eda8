#include "src/study/perplexity_record.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "probes/perplexity.h"

namespace study {
namespace {

constexpr double kAskTimeout_s = 20;

// A ten-thousandth of a nat says all that noise leaves, in a third of the bytes.
base::Json rounded(double nll) {
  return std::round(nll * 1e4) / 1e4;
}

bool names_perplexity(const std::vector<search::Expression>& expressions) {
  return std::any_of(expressions.begin(), expressions.end(), [](const search::Expression& expression) {
    auto names = expression.names();
    return std::any_of(names.begin(), names.end(), [](std::string name) {
      name = name.starts_with("default.") ? name.substr(8) : name;
      const MetricInfo* metric = find_metric(name);
      return metric != nullptr && metric->probe == "perplexity";
    });
  });
}

}  // namespace

PerplexityMeasured perplexity_record(const ProbeOptions& probes, const probes::PromptLosses& losses,
                                     const LossReference* reference, bool is_default) {
  PerplexityMeasured measured;
  if (!losses.unsupported.empty()) {
    measured.record = {{"unsupported", losses.unsupported}, {"for_good", losses.for_good}};
    return measured;
  }
  double ppl = probes::perplexity_of(losses.losses);
  base::Json& record = measured.record;
  record = {{"ppl", ppl},
            {"tokens", losses.losses.size()},
            {"chunks", losses.chunks},
            {"n_ctx", probes.prompt_losses.n_ctx},
            {"compared", nullptr},
            {"not_compared", nullptr},
            {"text_hash", losses.text_hash}};
  if (is_default || reference == nullptr) {
    base::Json nll = base::Json::array(), top = base::Json::array();
    for (const probes::TokenLoss& loss : losses.losses) {
      nll.push_back(rounded(loss.nll));
      top.push_back(loss.top);
    }
    record["nll"] = std::move(nll);
    record["top"] = std::move(top);
  }
  measured.values["ppl"] = ppl;
  if (is_default) {
    measured.values["ppl_change"] = 0;
    return measured;
  }
  if (reference == nullptr) {
    record["not_compared"] = "the default's perplexity was not measured";
    return measured;
  }
  if (reference->text_hash != losses.text_hash) {
    record["not_compared"] = "the server cuts the corpus into other tokens than the default's did";
    return measured;
  }
  probes::PerplexityOptions options;
  options.margin = probes.perplexity_margin;
  auto compared = probes::score_perplexity(reference->losses, losses.losses, options);
  if (!compared) {
    record["not_compared"] = compared.failure().to_string();
    return measured;
  }
  record["compared"] = probes::to_json(*compared);
  record["compared"]["with_trial_id"] = reference->trial_id;
  record["compared"]["margin"] = options.margin;
  measured.values["ppl_change"] = compared->ratio - 1;
  return measured;
}

std::optional<LossReference> losses_of(const base::Json& record) {
  auto nll = record.find("nll"), top = record.find("top");
  if (nll == record.end() || !nll->is_array() || top == record.end() || top->size() != nll->size()) {
    return std::nullopt;
  }
  LossReference reference;
  reference.text_hash = base::json_get<std::string>(record, "text_hash", "");
  for (size_t i = 0; i < nll->size(); ++i) {
    const base::Json &loss = (*nll)[i], &first = (*top)[i];
    if (!loss.is_number() || !first.is_number_integer()) {
      return std::nullopt;
    }
    probes::TokenLoss token;
    token.nll = loss.get<double>();
    token.top = first.get<int>();
    reference.losses.push_back(token);
  }
  return reference;
}

base::Json without_losses(base::Json record) {
  if (record.is_object()) {
    record.erase("nll");
    record.erase("top");
  }
  return record;
}

bool perplexity_decides(const Objective& objective) {
  return names_perplexity(objective.maximize) || names_perplexity(objective.subject_to);
}

std::string no_perplexity(const Study& study, const ServerProgram& program) {
  if (!study.probes.perplexity) {
    return "";
  }
  if (program.kind == BackendKind::kLlamaServer) {
    return kLlamaServerGivesNone;
  }
  if (program.kind != BackendKind::kUrl) {
    return "";
  }
  probes::Endpoint endpoint;
  endpoint.base_url = program.path;
  endpoint.native = program.native;
  endpoint.model = program.served_model;
  endpoint.timeout_s = kAskTimeout_s;
  const char* key =
      study.backend.api_key_env.empty() ? nullptr : std::getenv(study.backend.api_key_env.c_str());
  endpoint.api_key = key == nullptr ? "" : key;
  auto refused = probes::refuses_prompt_losses(endpoint);
  return refused ? *refused : "";  // a server that does not answer now is another matter
}

}  // namespace study
