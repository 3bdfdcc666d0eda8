#include "src/study/space_search.h"

#include <fmt/format.h>

#include <ctime>

#include "search/strategy.h"
#include "src/base/suggest.h"
#include "src/study/clock.h"
#include "src/study/space_plugin.h"

namespace study {
namespace {

class SearchReader {
 public:
  SearchReader(SpaceReader& reader, SearchOptions& options) : reader_(reader), options_(options) {}

  void read(const YamlNode& at) {
    reader_.read_map(
        at, "search",
        {{"strategy", [&](const YamlNode& value) { read_strategy(value); }},
         {"plugin", [&](const YamlNode& value) { nodes_.plugin = &value; }},
         {"llm", [&](const YamlNode& value) { nodes_.llm = &value; }},
         {"seed",
          [&](const YamlNode& value) {
            options_.seed =
                static_cast<uint64_t>(reader_.whole(value, "search.seed", 0, INT64_MAX).value_or(1));
          }},
         {"budget",
          [&](const YamlNode& value) {
            options_.budget_s = reader_.duration_s(value, "search.budget").value_or(0);
          }},
         {"until", [&](const YamlNode& value) { read_until(value); }},
         {"anchor_every",
          [&](const YamlNode& value) {
            options_.anchor_every = static_cast<int>(
                reader_.whole(value, "search.anchor_every", 0, 100000).value_or(options_.anchor_every));
          }},
         {"repeats",
          [&](const YamlNode& value) {
            options_.repeats =
                static_cast<int>(reader_.whole(value, "search.repeats", 1, 100).value_or(options_.repeats));
          }},
         {"max_trials", [&](const YamlNode& value) {
            options_.max_trials = static_cast<int>(
                reader_.whole(value, "search.max_trials", 1, 100000).value_or(options_.max_trials));
          }}});
    read_plugin(reader_, nodes_, options_);
  }

 private:
  void read_strategy(const YamlNode& at) {
    auto text = reader_.text(at, "search.strategy");
    nodes_.strategy = &at;
    if (text && is_plugin_strategy(*text)) {
      return;
    }
    if (text && search::find_strategy(*text) == nullptr) {
      std::vector<std::string> known;
      for (const auto& info : search::strategies()) {
        known.emplace_back(info.name);
      }
      known.insert(known.end(), {"llm", "exec:COMMAND"});
      reader_.fail(at, fmt::format("unknown strategy '{}'", *text), base::did_you_mean(*text, known));
    } else if (text) {
      options_.strategy = *text;
    }
  }

  void read_until(const YamlNode& at) {
    auto text = reader_.text(at, "search.until");
    if (!text) {
      return;
    }
    if (!seconds_until(*text, std::time(nullptr))) {
      reader_.fail(at, fmt::format("search.until must be a time of day, not '{}'", *text), "write \"07:00\"");
      return;
    }
    options_.until = *text;
  }

  SpaceReader& reader_;
  SearchOptions& options_;
  PluginNodes nodes_;
};

}  // namespace

void read_search(SpaceReader& reader, const YamlNode& node, SearchOptions& options) {
  SearchReader(reader, options).read(node);
}

}  // namespace study
