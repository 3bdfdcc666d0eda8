// One contract for every strategy, over all spaces and servers: noise, failures, doomed points and audits, tells
// of strangers, resume by replay at every cut, the same order for the same seed.

#include <doctest/doctest.h>

#include <map>
#include <set>

#include "tests/search/servers.h"
#include "tests/search/spaces.h"

using namespace servers;

namespace {

struct NamedServer {
  std::string name;
  Server answer;
};

Outcome noisy(const Space& space, const Config& config) {
  Outcome outcome = smooth(space, config);
  outcome.objective[0] *= std::exp(0.05 * normal(11, search::key_of(config)));
  outcome.noise = 0.05;
  return outcome;
}

// Failures of every kind, by the configuration's hash.
Outcome flaky(const Space& space, const Config& config) {
  double dice = normal(5, search::key_of(config));
  if (dice > 1) {
    return {};
  }
  Outcome outcome = noisy(space, config);
  outcome.feasible = dice > -1;
  return outcome;
}

double demand(const Space& space, const Config& config) {
  double sum = 0;
  for (size_t i = 0; i < config.size(); ++i) {
    sum += std::log2(search::memory_demand(space.axes[i].name, config[i]).value_or(1));
  }
  return sum;
}

// What takes more memory than the default does not fit.
Outcome tight(const Space& space, const Config& config) {
  return demand(space, config) > demand(space, space.default_config()) ? out_of_memory()
                                                                       : noisy(space, config);
}

// Every failure for memory was bad luck: nothing can be concluded from it, audits run.
Outcome unlucky(const Space& space, const Config& config) {
  return normal(3, search::key_of(config)) > 0.8 ? out_of_memory() : noisy(space, config);
}

struct Told {
  Config config;
  Outcome outcome;
  bool asked = true;
};

// What a strategy may conclude from what ran, written a second time.
struct Doom {
  std::vector<Config> failures, ran;
  bool operator()(const Space& space, const Config& config) const {
    for (const Config& failure : failures) {
      if (search::needs_at_least(space, config, failure)) {
        return true;
      }
    }
    return false;
  }
  void learn(const Space& space, const Config& config, const Outcome& outcome) {
    if (outcome.out_of_memory) {
      bool contradicted = false;
      for (const Config& larger : ran) {
        contradicted |= search::needs_at_least(space, larger, config);
      }
      if (!contradicted) {
        failures.push_back(config);
      }
    } else if (outcome.ok) {
      ran.push_back(config);
      std::erase_if(failures, [&](const Config& f) { return search::needs_at_least(space, config, f); });
    }
  }
};

struct Setting {
  search::Limits limits;
  bool strangers = false;  // every fourth tell is of a point nobody asked for
  bool preflight = false;  // a fifth of what is proposed is forecast not to fit
};

std::vector<Told> study(const search::StrategyInfo& info, const Space& space, const Server& server,
                        const Setting& setting) {
  auto strategy = info.make(space, 7, setting.limits);
  std::vector<Told> journal;
  std::set<std::string> launched, forecasts;
  Doom doom;
  auto tell = [&](const Config& config, const Outcome& outcome, bool asked) {
    if (!outcome.predicted) {
      doom.learn(space, config, outcome);
      launched.insert(search::key_of(config));
    }
    strategy->tell(config, outcome);
    journal.push_back({config, outcome, asked});
  };
  search::Rng rng(3, 9);
  while (true) {
    auto proposal = strategy->ask();
    auto again = strategy->ask();
    REQUIRE_EQ(proposal.has_value(), again.has_value());
    if (!proposal) {
      break;
    }
    REQUIRE_FALSE(strategy->done());
    std::string key = search::key_of(proposal->config);
    CHECK_EQ(key, search::key_of(again->config));
    CHECK_EQ(proposal->doomed, again->doomed);
    CHECK_EQ(key, search::key_of(space.canonical(proposal->config)));
    CHECK_EQ(space.violated(proposal->config), "");
    CHECK(search::from_json(space, search::to_json(space, proposal->config)).ok());
    CHECK_FALSE(proposal->rationale.empty());
    CHECK_FALSE(proposal->phase.empty());
    REQUIRE_FALSE(launched.contains(key));
    REQUIRE_LT(launched.size(), static_cast<size_t>(setting.limits.max_trials));
    REQUIRE_LT(journal.size(), 2000);
    if (journal.empty()) {
      CHECK_EQ(proposal->phase, "default");
      CHECK_EQ(key, search::key_of(space.default_config()));
    }
    bool audit = proposal->rationale.starts_with("audit");
    CHECK_EQ(doom(space, proposal->config), audit || !proposal->doomed.empty());
    if (!proposal->doomed.empty() || (setting.preflight && normal(8, key) > 0.85)) {
      if (!proposal->doomed.empty()) {
        REQUIRE(forecasts.insert(key).second);  // once
      }
      tell(proposal->config, forecast(), true);
    } else {
      tell(proposal->config, server(space, proposal->config), true);
    }
    if (setting.strangers && journal.size() % 4 == 0 && !strategy->done()) {
      Config config;
      for (const search::Axis& axis : space.axes) {
        config.push_back(axis.values[rng.below(axis.values.size())]);
      }
      config = space.canonical(config);
      if (space.violated(config).empty()) {
        tell(config, server(space, config), false);
      }
    }
  }
  CHECK(strategy->done());
  CHECK_FALSE(journal.empty());
  return journal;
}

// A journal told without asking goes on where it stopped, from every cut.
void check_replay(const search::StrategyInfo& info, const Space& space, const Setting& setting,
                  const std::vector<Told>& journal) {
  size_t stride = journal.size() < 25 ? 1 : 5;
  for (size_t cut = 0; cut <= journal.size(); cut += stride) {
    auto resumed = info.make(space, 7, setting.limits);
    for (size_t i = 0; i < cut; ++i) {
      resumed->tell(journal[i].config, journal[i].outcome);
    }
    if (cut < journal.size() && !journal[cut].asked) {
      continue;
    }
    auto next = resumed->ask();
    CAPTURE(cut);
    REQUIRE_EQ(next.has_value(), cut < journal.size());
    if (next) {
      CHECK_EQ(search::key_of(next->config), search::key_of(journal[cut].config));
    }
  }
}

}  // namespace

TEST_CASE("no strategy proposes what it knows from elsewhere, nor what that shows to be doomed") {
  const Space space = spaces::constrained();
  for (const auto& info : search::strategies()) {
    CAPTURE(info.name);
    search::Limits limits;
    limits.max_trials = 40;
    auto strategy = info.make(space, 7, limits);
    strategy->tell(space.default_config(), smooth(space, space.default_config()));
    std::set<std::string> known;
    Doom doom;
    doom.learn(space, space.default_config(), smooth(space, space.default_config()));
    search::Rng rng(4, 0);
    for (int i = 0; i < 12; ++i) {
      Config config;
      for (const search::Axis& axis : space.axes) {
        config.push_back(axis.values[rng.below(axis.values.size())]);
      }
      config = space.canonical(config);
      if (space.violated(config).empty() && config != space.default_config() &&
          known.insert(search::key_of(config)).second) {
        const Outcome outcome = i % 4 == 0 ? out_of_memory() : smooth(space, config);
        doom.learn(space, config, outcome);
        strategy->know(config, outcome);
      }
    }
    REQUIRE_GT(known.size(), 4);
    int asked = 0;
    for (auto proposal = strategy->ask(); proposal && asked < 200; proposal = strategy->ask(), ++asked) {
      CHECK_FALSE(known.contains(search::key_of(proposal->config)));
      if (!proposal->doomed.empty()) {
        strategy->tell(proposal->config, forecast());
        continue;
      }
      CHECK((!doom(space, proposal->config) || proposal->rationale.starts_with("audit")));
      const Outcome outcome = smooth(space, proposal->config);
      doom.learn(space, proposal->config, outcome);
      strategy->tell(proposal->config, outcome);
    }
    CHECK_GT(asked, 3);
  }
}

TEST_CASE("every strategy keeps the contract on every space") {
  const std::map<std::string, Space> all_spaces = {{"single point", spaces::single_point()},
                                                   {"tiny", spaces::tiny()},
                                                   {"constrained", spaces::constrained()},
                                                   {"conditional", spaces::conditional()},
                                                   {"mission", spaces::mission()}};
  const std::vector<NamedServer> all_servers = {{"smooth", smooth},
                                                {"noisy", noisy},
                                                {"flaky", flaky},
                                                {"tight", tight},
                                                {"unlucky", unlucky},
                                                {"nothing feasible", nothing_feasible},
                                                {"always out of memory", always_out_of_memory},
                                                {"always crashes", always_crashes}};
  std::vector<Setting> settings;
  for (int max_trials : {1, 2, 7, 60}) {
    settings.push_back({{max_trials}});
  }
  settings.push_back({{40, 20, {"n_batch", "n_ubatch", "ctx_size", "cache_type_k", "cache_type_v"}}});
  settings.push_back({{40}, true, false});
  settings.push_back({{40}, false, true});
  settings.push_back({{40}, true, true});
  int turn = 0;
  for (const auto& info : search::strategies()) {
    for (const auto& entry : all_spaces) {
      for (const NamedServer& server : all_servers) {
        for (const Setting& setting : settings) {
          // Asking a model costs a hundred times as much: of its long studies every fourth.
          if (info.name == "model-based" && setting.limits.max_trials > 7 && turn++ % 4 != 0) {
            continue;
          }
          CAPTURE(info.name);
          CAPTURE(entry.first);
          CAPTURE(server.name);
          CAPTURE(setting.limits.max_trials);
          CAPTURE(setting.strangers);
          CAPTURE(setting.preflight);
          std::vector<Told> journal = study(info, entry.second, server.answer, setting);
          check_replay(info, entry.second, setting, journal);
        }
      }
    }
  }
}
