// A plugin that lies, repeats itself or says nothing changes nothing but the journal; one that proposes well gets its
// share and no more; and a journal that is learnt again leads to where it stopped.

#include "search/plugin.h"

#include <doctest/doctest.h>

#include <map>

#include "search/plugin_text.h"
#include "tests/search/servers.h"
#include "tests/search/spaces.h"

using namespace servers;
using search::Plugin;
using search::PluginExchange;
using search::PluginReply;

namespace {

bool has(const std::string& text, const std::string& piece) {
  return text.find(piece) != std::string::npos;
}

// What the driver forecasts of spaces::constrained().
const base::Json kNoRoom = {
    {"n_batch", 128}, {"n_ubatch", 64}, {"cache_type_v", "tbq3_0"}, {"flash_attn", "on"}};

Plugin make(const Space& space, double share, int max_trials = 30) {
  search::PluginOptions options;
  options.share = share;
  options.cannot_fit = [&space](const Config& config) {
    return search::to_json(space, config) == kNoRoom ? std::string("no room for it") : std::string();
  };
  return Plugin(search::find_strategy("two-phase")->make(space, 7, {max_trials}), space, options);
}

// As the loop does it.
void tell(Plugin& plugin, const Space& space, const Proposal& proposal, int trial_id) {
  Outcome outcome = proposal.doomed.empty() ? smooth(space, proposal.config) : forecast();
  if (proposal.doomed.empty()) {
    search::PluginTrial trial;
    trial.trial_id = trial_id;
    trial.config = proposal.config;
    trial.outcome = outcome;
    trial.status = "ok";
    plugin.remember(std::move(trial));
  }
  plugin.tell(proposal.config, outcome);
}

std::vector<Proposal> run_all(Plugin& plugin, const Space& space) {
  std::vector<Proposal> all;
  while (auto proposal = plugin.ask()) {
    REQUIRE_LT(all.size(), 500);
    all.push_back(*proposal);
    tell(plugin, space, *proposal, static_cast<int>(all.size()));
  }
  CHECK(plugin.done());
  return all;
}

PluginReply reply(std::string line) {
  PluginReply reply;
  reply.line = std::move(line);
  reply.seconds = 0.5;
  return reply;
}

// Proposes the points of the grid from its far end, n at once.
PluginReply from_the_end(const Space& space, const base::Json& request) {
  base::Json proposals = base::Json::array();
  auto size = static_cast<uint64_t>(space.grid_size());
  for (int i = 0; i < 4 * request["n"].get<int>(); ++i) {
    uint64_t at = size - 1 - (4 * request["request"].get<uint64_t>() + static_cast<uint64_t>(i)) % size;
    Config config;
    for (size_t axis = space.axes.size(); axis-- > 0;) {
      const auto& values = space.axes[axis].values;
      config.insert(config.begin(), values[at % values.size()]);
      at /= values.size();
    }
    proposals.push_back(
        {{"params", search::to_json(space, config)}, {"rationale", "from the end\nof the grid"}});
  }
  return reply(
      base::dump_line({{"proposals", proposals}, {"usage", {{"input_tokens", 100}, {"output_tokens", 10}}}}));
}

}  // namespace

TEST_CASE("a plugin that gives nothing usable leaves the fallback's trials as they are, and is left alone") {
  const Space space = spaces::constrained();
  auto alone = make(space, 0);
  std::vector<Proposal> expected = run_all(alone, space);
  base::Json usual = search::to_json(space, space.default_config());
  base::Json strange = usual, off_axis = usual, broken = usual;
  strange["no_such_axis"] = 1;
  off_axis[space.axes[0].name] = "no such value";
  for (const search::Axis& axis : space.axes) {
    broken[axis.name] = std::visit([](const auto& value) { return base::Json(value); },
                                   axis.name == "n_batch" ? axis.values.front() : axis.values.back());
  }
  auto proposal = [](const base::Json& params) {
    return base::dump_line({{"proposals", {{{"params", params}, {"rationale", 5}}}}});
  };
  const std::map<std::string, std::string> lies = {
      {"the space has no such axis", proposal(strange)},
      {"is not one of its values", proposal(off_axis)},
      {"breaks the constraint", proposal(broken)},
      {"has been run before", proposal(usual)},
      {"no room for it", proposal(kNoRoom)},
      {"is missing", proposal(base::Json::object())},
      {"is not a JSON object", proposal("text")},
      {"a proposal without params", R"({"proposals": [7]})"},
      {"the answer has no proposals", R"({"proposals": "none"})"},
      {"the plugin says: no money", R"({"error": "no money"})"},
      {"no JSON object", "[]"},
      {"is no JSON", "{\"proposals\": [{\"par"},
      {"128", std::string(100000, '[')},
      {"is no JSON: ", std::string("\xff\xfe\0\n", 4)}};
  for (const auto& lie : lies) {
    const std::string &why = lie.first, &line = lie.second;
    CAPTURE(why);
    auto plugin = make(space, 0.5);
    int asked = 0;
    std::vector<PluginExchange> ledger;
    plugin.connect(
        [&](int, const base::Json&) {
          ++asked;
          return reply(line);
        },
        [&](const PluginExchange& exchange) { ledger.push_back(exchange); });
    std::vector<Proposal> all = run_all(plugin, space);
    REQUIRE_EQ(all.size(), expected.size());
    for (size_t i = 0; i < all.size(); ++i) {
      CHECK_EQ(search::key_of(all[i].config), search::key_of(expected[i].config));
      CHECK_EQ(all[i].rationale, expected[i].rationale);
      CHECK_NE(all[i].phase, "plugin");
      CHECK_EQ(all[i].fallback.empty(), i == 0);
    }
    CHECK_EQ(asked, std::min(6, static_cast<int>(ledger.size())));
    CHECK_GE(asked, 3);
    CHECK(has(ledger.front().fault, why));
    CHECK_EQ(plugin.wasted_s(), 0.5 * asked);
  }
}

TEST_CASE(
    "a good plugin gets its share of the trials at any time, without repeats, and a replay goes on alike") {
  for (const Space& space : {spaces::constrained(), spaces::conditional(), spaces::mission()}) {
    for (double share : {0.3, 1.0}) {
      CAPTURE(share);
      std::vector<PluginExchange> ledger;
      std::vector<size_t> ledger_at;  // trials told before each exchange
      std::vector<base::Json> requests;
      auto plugin = make(space, share, 25);
      size_t told = 0;
      plugin.connect(
          [&](int number, const base::Json& request) {
            CHECK_EQ(number, static_cast<int>(ledger.size()) + 1);
            requests.push_back(request);
            return from_the_end(space, request);
          },
          [&](const PluginExchange& exchange) {
            ledger.push_back(exchange);
            ledger_at.push_back(told);
          });
      std::vector<Proposal> all;
      std::map<std::string, int> seen;
      int its = 0, launched = 0;
      while (auto proposal = plugin.ask()) {
        REQUIRE_LT(all.size(), 500);
        CHECK_EQ(space.violated(proposal->config), "");
        if (proposal->doomed.empty()) {
          CHECK_EQ(seen[search::key_of(proposal->config)]++, 0);
          ++launched;
          its += proposal->phase == "plugin" ? 1 : 0;
          CHECK_LE(its, share * launched + 1e-9);
        }
        all.push_back(*proposal);
        tell(plugin, space, *proposal, static_cast<int>(all.size()));
        ++told;
      }
      CHECK_EQ(all.front().phase, "default");
      CHECK_GE(its, share < 1 ? launched / 4 - 1
                              : launched * 3 / 4);  // a small space may be known before the next is due
      REQUIRE_FALSE(ledger.empty());
      CHECK_EQ(ledger.front().taken.front().rationale, "from the end of the grid");
      const base::Json& last = requests.back();
      CHECK_EQ(last["usage_so_far"]["input_tokens"], 100.0 * static_cast<double>(requests.size() - 1));
      CHECK_LE(last["best"].size(), 8);
      CHECK_GE(last["best"][0]["objective"][0], last["last"][0]["objective"][0]);
      CHECK_EQ(last["space"]["axes"].size(), space.axes.size());

      // From the journal: exchanges in their places, by way of JSON; asking nobody.
      for (size_t cut = 0; cut < all.size(); cut += 3) {
        CAPTURE(cut);
        auto resumed = make(space, share, 25);
        size_t next_exchange = 0;
        auto exchanges_until = [&](size_t trials) {
          for (; next_exchange < ledger.size() && ledger_at[next_exchange] <= trials; ++next_exchange) {
            auto back = search::exchange_from_json(space, search::to_json(space, ledger[next_exchange]));
            REQUIRE(back.ok());
            resumed.replay(*back);
          }
        };
        for (size_t i = 0; i < cut; ++i) {
          exchanges_until(i);
          auto asked = resumed.ask();
          REQUIRE(asked.has_value());
          CHECK_EQ(search::key_of(asked->config), search::key_of(all[i].config));
          tell(resumed, space, all[i], static_cast<int>(i) + 1);
        }
        exchanges_until(cut);
        auto next = resumed.ask();
        REQUIRE(next.has_value());
        CHECK_EQ(search::key_of(next->config), search::key_of(all[cut].config));
        CHECK_EQ(next->phase, all[cut].phase);
      }
    }
  }
}

TEST_CASE("values that are paths are told by file name alone, and a file name is taken for its path") {
  Space space = spaces::constrained();
  search::Axis model;
  model.name = "model";
  model.values = {std::string("/data/secret/m.gguf"), std::string("/data/secret/m.gguf.old/m.gguf"),
                  std::string("plain.gguf"), std::string("../x/plain.gguf")};
  model.ordered = false;
  space.axes.push_back(model);
  search::PluginOptions options;
  options.share = 0.9;
  Plugin plugin(search::find_strategy("grid")->make(space, 1, {}), space, options);
  base::Json params = search::to_json(space, space.default_config());
  search::PluginTrial trial;
  trial.trial_id = 1;
  trial.config = space.default_config();
  trial.outcome = smooth(space, trial.config);
  trial.status = "ok";
  trial.violations = {"it is /data/secret/m.gguf, which is slow"};
  plugin.remember(trial);
  plugin.tell(trial.config, trial.outcome);
  base::Json told;
  PluginExchange taken;
  params["model"] = "m.gguf (2)";
  plugin.connect(
      [&](int, const base::Json& request) {
        told = request;
        return reply(base::dump_line({{"proposals", {{{"params", params}}}}}));
      },
      [&](const PluginExchange& exchange) { taken = exchange; });
  REQUIRE_EQ(plugin.ask()->phase, "plugin");
  CHECK_FALSE(has(told.dump(), "secret"));
  CHECK_EQ(told["space"]["axes"].back()["values"],
           base::Json({"m.gguf", "m.gguf (2)", "plain.gguf", "plain.gguf (2)"}));
  CHECK_EQ(told["space"]["axes"].back()["default"], "m.gguf");
  CHECK_EQ(told["last"][0]["params"]["model"], "m.gguf");
  CHECK_EQ(told["last"][0]["violations"][0], "it is m.gguf, which is slow");
  REQUIRE_EQ(taken.taken.size(), 1);
  CHECK_EQ(search::to_string(taken.taken[0].config.back()), "/data/secret/m.gguf.old/m.gguf");
}

TEST_CASE("a secret is hidden however it is written, and before anything is clipped") {
  const std::string key = "sk/\"quoted\"-0123456789";
  for (const std::string& line :
       {base::dump_line({{"error", "my key is " + key}}), base::dump_line({{key, {1, {key + key}}}}),
        std::string(R"({"error": "sk\/\u0022quoted\"-0123456789"})"),
        std::string(R"(no JSON, "sk/\"quoted\"-0123456789")"), "text " + key}) {
    std::string shown = line;
    search::hide_secret_in_line(shown, key);
    CAPTURE(line);
    CHECK_FALSE(has(shown, "quoted"));
    CHECK(has(shown, "***"));
  }
}

TEST_CASE("a plugin for which there is no time is not asked, and that is no failure of its") {
  const Space space = spaces::constrained();
  auto plugin = make(space, 0.5);
  bool time = false;
  int recorded = 0;
  plugin.connect(
      [&](int, const base::Json& request) {
        PluginReply answer = from_the_end(space, request);
        answer.asked = time;
        answer.fault = time ? "" : "no time";
        return answer;
      },
      [&](const PluginExchange&) { ++recorded; });
  for (int i = 1; i <= 10; ++i) {
    auto proposal = plugin.ask();
    REQUIRE(proposal.has_value());
    CHECK_NE(proposal->phase, "plugin");
    CHECK_EQ(proposal->fallback, i > 1 ? "no time" : "");
    tell(plugin, space, *proposal, i);
  }
  CHECK_EQ(recorded, 0);
  time = true;
  CHECK_EQ(plugin.ask()->phase, "plugin");
  CHECK_EQ(recorded, 1);
}

TEST_CASE("a plugin that fails all the time is asked six times, ever more seldom, and again after a resume") {
  const Space space = spaces::mission();
  search::PluginOptions options;
  Plugin plugin(search::find_strategy("grid")->make(space, 7, {200}), space, options);
  std::vector<int> asked_at;
  int trials = 0;
  auto silence = [&](int, const base::Json&) {
    asked_at.push_back(trials);
    return reply("");
  };
  plugin.connect(silence, [](const PluginExchange&) {});
  for (int end : {100, 101}) {
    for (; trials < end; ++trials) {
      auto proposal = plugin.ask();
      REQUIRE(proposal.has_value());
      tell(plugin, space, *proposal, trials + 1);
    }
    CHECK_EQ(asked_at.size(), end == 100 ? 6 : 7);
    plugin.connect(silence, [](const PluginExchange&) {});
  }
  for (size_t i = 2; i < 6; ++i) {  // one turn is left out after the second failure, then two, four, eight
    CHECK_EQ(asked_at[i] - asked_at[i - 1], 1 + (1 << (i - 2)));
  }
}
