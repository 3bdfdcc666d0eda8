// Any bytes as a plugin's answer, and as an endpoint's to the LLM proposer: what is taken is a new point of the space, no
// more than was asked for; what is recorded can be read back; everything else is a fault in words.

#include <cstddef>
#include <cstdint>
#include <string>

#include "search/llm/providers.h"
#include "search/plugin.h"
#include "src/base/check.h"

namespace {

search::Space make_space() {
  search::Space space;
  search::Axis threads, types, mapped;
  threads.name = "n_threads";
  threads.values = {int64_t{1}, int64_t{2}, int64_t{4}};
  types.name = "cache_type_k";
  types.values = {std::string("f16"), std::string("q8_0")};
  types.ordered = false;
  mapped.name = "mmap";
  mapped.values = {true, false};
  mapped.ordered = false;
  mapped.active_when = *search::Expression::parse("n_threads > 1");
  space.axes = {threads, types, mapped};
  space.constraints = {*search::Expression::parse("n_threads < 4 or cache_type_k == f16")};
  return space;
}

void answer_plugin(const search::Space& space, const std::string& line) {
  search::PluginOptions options;
  options.share = 0.9;
  search::Plugin plugin(search::find_strategy("grid")->make(space, 1, {}), space, options);
  search::Outcome outcome;
  outcome.ok = outcome.feasible = true;
  outcome.objective = {1.0};
  plugin.tell(space.default_config(), outcome);
  int asked = 0;
  plugin.connect(
      [&](int, const base::Json& request) {
        asked = base::json_get<int>(request, "n", 0);
        search::PluginReply reply;
        reply.line = line;
        return reply;
      },
      [&](const search::PluginExchange& exchange) {
        AR_CHECK(static_cast<int>(exchange.taken.size()) <= asked, "more taken than asked for");
        AR_CHECK(exchange.taken.empty() != exchange.fault.empty(), "nothing taken without a fault, or both");
        for (const auto& taken : exchange.taken) {
          AR_CHECK(space.canonical(taken.config) == taken.config, "not canonical");
          AR_CHECK(space.violated(taken.config).empty(), "a constraint is broken");
          AR_CHECK(taken.config != space.default_config(), "it has been run");
        }
        const auto record = base::parse_json(base::dump_line(search::to_json(space, exchange)), "record");
        AR_CHECK(record.ok(), "a record that is no JSON");
        const auto again = search::exchange_from_json(space, *record);
        AR_CHECK(again.ok() && again->taken.size() == exchange.taken.size(), "a record that cannot be read");
      });
  AR_CHECK(plugin.ask().has_value(), "no proposal at all");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const search::Space space = make_space();
  const std::string text(reinterpret_cast<const char*>(data), size);
  answer_plugin(space, text.substr(0, text.find('\n')));
  for (llm::Provider provider : {llm::Provider::kAnthropic, llm::Provider::kOpenAi}) {
    llm::Options options;
    options.provider = provider;
    const llm::Answer answer = llm::read_answer(options, "application/json", text);
    AR_CHECK(answer.fault.empty() ? answer.proposals.is_array() : true, "neither proposals nor a fault");
    if (answer.proposals.is_array()) {
      answer_plugin(space, base::dump_line({{"proposals", answer.proposals}}));
    }
  }
  llm::error_text(text);
  return 0;
}
