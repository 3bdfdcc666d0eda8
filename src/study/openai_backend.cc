#include "src/study/openai_backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace study {
namespace {

constexpr std::string_view kHost = "127.0.0.1";
constexpr std::array<std::string_view, 4> kAliasFlags = {"--alias", "-a", "--served-model-name",
                                                         "--served_model_name"};

bool any_mentions(const BackendOptions& options, std::string_view placeholder) {
  auto in = [&](const std::string& text) { return text.find(placeholder) != std::string::npos; };
  return std::any_of(options.args.begin(), options.args.end(), in) ||
         std::any_of(options.env.begin(), options.env.end(),
                     [&](const auto& pair) { return in(pair.second); });
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
}

}  // namespace

std::string fill_placeholders(std::string_view text, int port, std::string_view model) {
  std::string out(text);
  replace_all(out, "{port}", std::to_string(port));
  replace_all(out, "{host}", kHost);
  replace_all(out, "{model}", model);
  return out;
}

base::Result<void> plan_openai(const Study& study, const ServerProgram& program, const search::Config& config,
                               const LaunchSite& site, LaunchPlan& plan) {
  const std::string& model = model_of(study, config);
  plan.argv = {program.path};
  for (const std::string& arg : study.backend.args) {
    plan.argv.push_back(fill_placeholders(arg, site.port, model));
  }
  if (!any_mentions(study.backend, "{port}")) {
    plan.argv.insert(plan.argv.end(), {"--host", std::string(kHost), "--port", std::to_string(site.port)});
  }
  for (const auto& [name, value] : study.backend.env) {
    plan.env.emplace_back(name, fill_placeholders(value, site.port, model));
  }
  for (size_t i = 0; i < study.space.axes.size(); ++i) {
    const search::Axis& axis = study.space.axes[i];
    if (auto bound = study.bindings.find(axis.name); bound != study.bindings.end()) {
      bind_axis(bound->second, config[i], plan);
    } else if (auto problem = unsupported_by_foreign(study, program, axis)) {
      return *problem;
    }
  }
  return {};
}

std::optional<base::Error> unsupported_by_foreign(const Study& study, const ServerProgram& program,
                                                  const search::Axis& axis) {
  bool bound = study.bindings.contains(axis.name);
  if (program.kind == BackendKind::kUrl) {
    const auto& taken = program.reconfigurable;
    if (!bound && std::find(taken.begin(), taken.end(), axis.name) != taken.end()) {
      return std::nullopt;
    }
    return base::error(
        axis.name,
        taken.empty() ? fmt::format("the server at {} runs as it is: it offers no /reconfigure", program.path)
                      : fmt::format("the server at {} cannot change it while it runs", program.path),
        "remove the axis, or let autoresearch launch the server (another backend.kind)");
  }
  if (bound || axis.name == "binary") {
    return std::nullopt;
  }
  if (axis.name == "model") {
    return any_mentions(study.backend, "{model}")
               ? std::nullopt
               : std::optional(base::error(axis.name, "no argument of the server names the model",
                                           "write \"{model}\" where it belongs in backend.args"));
  }
  return base::error(axis.name, "an openai backend has no flag for this axis that we could know",
                     "give the axis its own flag: or env: in the space file");
}

std::string ready_path_of(const BackendOptions& options, bool native) {
  return !options.ready_path.empty() ? options.ready_path : native ? "/health" : "/v1/models";
}

std::vector<std::string> model_names(const Study& study, const search::Config& config) {
  std::vector<std::string> names;
  if (const std::string& model = model_of(study, config); !model.empty()) {
    names.push_back(model);
  }
  const auto& args = study.backend.args;
  for (size_t i = 0; i < args.size(); ++i) {
    size_t equals = args[i].find('=');
    if (std::find(kAliasFlags.begin(), kAliasFlags.end(), args[i].substr(0, equals)) == kAliasFlags.end()) {
      continue;
    }
    if (equals != std::string::npos) {
      names.push_back(fill_placeholders(args[i].substr(equals + 1), 0, model_of(study, config)));
    }
    // --served-model-name takes several names.
    for (size_t k = i + 1; equals == std::string::npos && k < args.size() && !args[k].starts_with("-"); ++k) {
      names.push_back(fill_placeholders(args[k], 0, model_of(study, config)));
    }
  }
  return names;
}

}  // namespace study
