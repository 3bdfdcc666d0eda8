#include "src/study/header.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <random>

#include "src/base/log.h"
#include "src/base/version.h"
#include "src/os/files.h"
#include "src/os/host.h"
#include "src/os/proc.h"
#include "src/study/in_place.h"
#include "src/study/journal.h"
#include "src/study/record.h"

namespace study {
namespace {

namespace fs = std::filesystem;

std::string new_study_id(const std::string& name) {
  std::random_device random;
  return fmt::format("{}-{:%Y%m%dT%H%M%S}-{:06x}", name, fmt::gmtime(std::time(nullptr)),
                     random() & 0xffffff);
}

base::Json host_json() {
  os::HostFacts facts = os::read_host_facts();
  return {{"hostname", facts.hostname},
          {"kernel", facts.kernel},
          {"os", facts.os_name},
          {"arch", facts.arch},
          {"cpu_model", facts.cpu_model},
          {"logical_cpus", facts.logical_cpus},
          {"physical_cores", facts.physical_cores},
          {"memory_bytes", facts.memory_bytes},
          {"swap_bytes", facts.swap_bytes},
          {"gpus", facts.gpus}};
}

base::Json scalar(const search::Value& value) {
  return std::visit([](const auto& held) { return base::Json(held); }, value);
}

base::Json texts(const std::vector<search::Expression>& expressions) {
  base::Json list = base::Json::array();
  for (const search::Expression& expression : expressions) {
    list.push_back(expression.text());
  }
  return list;
}

base::Json suite_json(const ProbeOptions& probes) {
  std::string all;
  for (const probes::QualityItem& item : probes.quality_items) {
    all += fmt::format("{}\n{}\n{}\n", item.id, item.prompt, item.max_tokens);
    for (const auto* group : {&item.all_of, &item.any_of, &item.none_of}) {
      for (const std::string& word : *group) {
        all += word + "\t";
      }
      all += "\n";
    }
  }
  return {
      {"path", probes.quality_suite}, {"items", probes.quality_items.size()}, {"hash", content_hash(all)}};
}

base::Json corpus_json(const ProbeOptions& probes) {
  return {{"path", probes.perplexity_corpus},
          {"n_ctx", probes.prompt_losses.n_ctx},
          {"chunks", probes.prompt_losses.chunks},
          {"hash", content_hash(probes.prompt_losses.text)}};
}

base::Json binary_json(const ServerProgram& program) {
  base::Json binary = {
      {"kind", to_string(program.kind)}, {"path", program.path}, {"version", program.version}};
  if (!program.config_file.empty()) {
    binary["config_file"] = program.config_file;
  }
  if (!program.settings.is_null()) {
    binary["settings"] = program.settings;
  }
  return binary;
}

}  // namespace

base::Json axes_json(const search::Space& space) {
  base::Json axes = base::Json::array();
  for (const search::Axis& axis : space.axes) {
    base::Json values = base::Json::array();
    for (const search::Value& value : axis.values) {
      values.push_back(scalar(value));
    }
    axes.push_back(
        {{"name", axis.name}, {"values", values}, {"default", scalar(axis.values[axis.default_index])}});
  }
  return axes;
}

base::Json objective_json(const Objective& objective) {
  base::Json limits = texts(objective.subject_to);
  for (const std::string& reference : objective.quality_not_worse_than) {
    limits.push_back("quality not_worse_than " + reference);
  }
  return {{"maximize", texts(objective.maximize)}, {"subject_to", limits}, {"pareto", objective.pareto}};
}

base::Json measurement_json(const Study& study) {
  const ProbeOptions& probes = study.probes;
  base::Json json = base::Json::object();
  json["limits"] = {{"backend.load_timeout", study.backend.load_timeout_s},
                    {"backend.load_stall", study.backend.load_stall_s},
                    {"probes.request_timeout", probes.request_timeout_s},
                    {"probes.stall_timeout", probes.stall_timeout_s},
                    {"probes.memory.min_headroom_gib", probes.min_headroom_gib}};
  if (probes.speed) {  // repeats only make it more certain
    const probes::SpeedOptions& speed = probes.speed_options;
    json["speed"] = {{"n_prompt", speed.n_prompt}, {"n_gen", speed.n_gen}, {"warmups", speed.warmups}};
  }
  if (probes.needle) {
    const probes::NeedleOptions& needle = probes.needle_options;
    json["needle"] = {{"lengths", needle.lengths},        {"depths", needle.depths},
                      {"per_cell", needle.per_cell},      {"seed", needle.seed},
                      {"max_tokens", needle.max_tokens},  {"max_thinking_tokens", needle.max_thinking_tokens},
                      {"max_answer", needle.max_answer_s}};
  }
  if (probes.quality) {
    json["quality"] = {{"suite", suite_json(probes)["hash"]},
                       {"max_thinking_tokens", probes.quality_options.max_thinking_tokens},
                       {"max_answer", probes.quality_options.max_answer_s}};
  }
  if (probes.perplexity) {
    const base::Json corpus = corpus_json(probes);
    json["perplexity"] = {
        {"corpus", corpus["hash"]}, {"n_ctx", corpus["n_ctx"]}, {"chunks", corpus["chunks"]}};
  }
  if (!probes.curve.depths.empty()) {
    json["curve"]["depths"] = probes.curve.depths;
  }
  return json;
}

base::Json llm_json(const LlmSetup& llm) {
  auto text = [](const std::string& words) {
    return words.empty() ? base::Json(nullptr) : base::Json(words);
  };
  return {{"provider", llm.provider},
          {"endpoint", text(llm.url)},
          {"model", text(llm.model)},
          {"max_tokens", llm.max_tokens},
          {"usd_per_mtok_in", llm.usd_per_mtok_in},
          {"usd_per_mtok_out", llm.usd_per_mtok_out}};
}

base::Json study_header(const Study& study, const ServerProgram& program, const base::Json& model,
                        const std::vector<base::Json>& models) {
  base::Json header = {
      {"type", "study"},
      {"schema_version", kSchemaVersion},
      {"study_id", new_study_id(study.name)},
      {"study", study.name},
      {"started", utc_now()},
      {"driver", {{"version", base::version()}, {"commit", base::commit()}}},
      {"space_path", study.path.empty() ? "" : fs::absolute(study.path).lexically_normal().string()},
      {"space_hash", content_hash(study.text)},
      {"space", study.text},
      {"axes", axes_json(study.space)},
      {"objective", objective_json(study.objective)},
      {"search",
       {{"strategy", study.search.strategy},
        {"seed", study.search.seed},
        {"max_trials", study.search.max_trials},
        {"budget_s", study.search.budget_s},
        {"until", study.search.until}}},
      {"measurement", measurement_json(study)},
      {"quality_suite", suite_json(study.probes)},
      {"binary", binary_json(program)},
      {"model", model},
      {"host", host_json()},
      {"in_place", in_place_axes(study, program)},
      {"boot_id", os::boot_id()}};
  if (study.search.plugin) {
    const PluginSetup& plugin = *study.search.plugin;
    header["search"]["plugin"] = {{"name", plugin.name},
                                  {"share", plugin.share},
                                  {"timeout_s", plugin.timeout_s},
                                  {"time", plugin.time_share},
                                  {"grace_s", plugin.grace_s}};
    if (plugin.llm) {
      header["search"]["plugin"]["llm"] = llm_json(*plugin.llm);
    }
  }
  if (study.probes.perplexity) {
    header["perplexity_corpus"] = corpus_json(study.probes);
  }
  if (models.size() > 1) {
    header["models"] = models;
  }
  if (!program.others.empty()) {
    header["binaries"] = base::Json::array({binary_json(program)});
    for (const ServerProgram& other : program.others) {
      header["binaries"].push_back(binary_json(other));
    }
  }
  return header;
}

base::Result<Study> study_of_header(const base::Json& header) {
  std::string path = base::json_get<std::string>(header, "space_path", "");
  std::string text = base::json_get<std::string>(header, "space", "");
  std::string hash = base::json_get<std::string>(header, "space_hash", "");
  if (content_hash(text) != hash) {
    return base::error(path, "the space text in the journal is not the one its hash was taken of",
                       "the journal was changed by hand: restore it, or start a new study");
  }
  auto parsed = parse_space_file(text, path, SpaceOrigin::kRecorded);
  if (const auto* errors = std::get_if<SpaceFileErrors>(&parsed)) {
    return base::error("", errors->to_string(),
                       "the study's space no longer parses here; set the variables and "
                       "files it names as they were");
  }
  Study study = std::get<Study>(std::move(parsed));
  std::string model = base::json_get<std::string>(header.value("model", base::Json::object()), "path", "");
  if (study.space.find("model") == nullptr && !model.empty()) {
    study.model = model;
  }
  const base::Json search = header.value("search", base::Json::object());
  study.search.strategy = base::json_get<std::string>(search, "strategy", study.search.strategy);
  study.search.seed = base::json_get<uint64_t>(search, "seed", study.search.seed);
  study.search.max_trials = base::json_get<int>(search, "max_trials", study.search.max_trials);
  study.search.budget_s = base::json_get<double>(search, "budget_s", study.search.budget_s);
  study.search.until = base::json_get<std::string>(search, "until", study.search.until);
  std::string recorded =
      base::json_get<std::string>(header.value("quality_suite", base::Json::object()), "hash", "");
  if (recorded != base::json_get<std::string>(suite_json(study.probes), "hash", "")) {
    return base::error(study.probes.quality_suite, "the prompt suite has changed since the study began",
                       "restore it as it was, or start a new study: scores would not compare");
  }
  if (study.probes.perplexity &&
      base::json_get<std::string>(header.value("perplexity_corpus", base::Json::object()), "hash", "") !=
          base::json_get<std::string>(corpus_json(study.probes), "hash", "")) {
    return base::error(study.probes.perplexity_corpus, "the corpus has changed since the study began",
                       "restore it as it was, or start a new study: perplexities would not compare");
  }
  return study;
}

}  // namespace study
