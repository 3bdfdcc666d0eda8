#pragma once
// The plugin as a process: started at its first question, kept (one that has ended since its last answer, before it
// heard of the next question, is started again), ended with all its descendants when an answer is late,
// too long or none, and at the end of the run. Its stderr is in LOGS/plugin-N.log, N the exchange it was started for.

#include <memory>
#include <string>
#include <vector>

#include "search/plugin.h"
#include "src/os/conversation.h"
#include "src/study/study.h"

namespace study {

class PluginSite {
 public:
  // `secrets`: values that must not reach the journal, wherever the plugin may have them from.
  PluginSite(PluginSetup setup, std::string log_directory, std::vector<std::string> secrets);
  ~PluginSite();

  // Never fails: what goes wrong is the reply's fault. Returns early when the user stops the run.
  search::PluginReply ask(int exchange, const std::string& request, double patience_s);

 private:
  std::string launch(int exchange);  // why it could not be, or ""

  PluginSetup setup_;
  std::string log_directory_, log_path_;  // the latter of the program that runs now
  std::vector<std::string> secrets_;
  std::unique_ptr<os::Conversation> talk_;
};

// What a run would find out at its first question: no such program, no key. Empty without a plugin.
std::vector<base::Error> plugin_problems(const Study& study);
// The values of the variables that hold the study's keys.
std::vector<std::string> secrets_of(const Study& study);
// The setup with argv[0] as it is to be started: autoresearch-llm lies beside autoresearch, or in PATH.
PluginSetup located(PluginSetup setup);

}  // namespace study
