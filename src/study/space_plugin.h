#pragma once
// What a space file says of plugins: strategy "exec:COMMAND" or llm, and the maps search.plugin and search.llm.

#include "src/study/space_reader.h"
#include "src/study/study.h"

namespace study {

// True for the strategies that are plugins.
bool is_plugin_strategy(std::string_view strategy);

// The nodes of search, nullptr where absent.
struct PluginNodes {
  const YamlNode *strategy = nullptr, *plugin = nullptr, *llm = nullptr;
};
// Sets options.plugin, and options.strategy to what decides wherever the plugin does not. Errors are the reader's.
void read_plugin(SpaceReader& reader, const PluginNodes& nodes, SearchOptions& options);

// Words separated by blanks; '...' and "..." keep blanks together. No shell: nothing is expanded. Error: a quote that
// is not closed, no word at all.
base::Result<std::vector<std::string>> command_words(std::string_view command);

}  // namespace study
