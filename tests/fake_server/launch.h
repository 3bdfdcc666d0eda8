#pragma once
// One start of the pretended server: a command line, what the scenario makes of it, and the luck of this start.

#include <map>
#include <memory>
#include <string>

#include "src/base/error.h"
#include "src/base/json.h"
#include "tests/fake_server/model.h"
#include "tests/fake_server/scenario.h"

namespace fake {

struct Launch {
  Launch(Scenario scenario_, Flags flags_, std::string_view suite)
      : scenario(std::move(scenario_)), flags(std::move(flags_)), answers(scenario, suite) {}

  bool is(const char* behaviour) const { return scenario.behaviour == behaviour; }
  std::string flag(const char* name, const char* fallback) const;
  int n_ctx() const;
  std::string model_id() const;
  base::Json props() const;  // the answer of GET /props

  const Scenario scenario;
  const Flags flags;
  mutable Answers answers;  // counts the needles asked for
};

// The scenario's text, to be applied again when flags change.
class Script {
 public:
  // `text` is JSON; `where` names it in errors; `behaviour`, unless "", stands over the scenario's own.
  Script(std::string text, std::string where, std::string behaviour)
      : text_(std::move(text)), where_(std::move(where)), behaviour_(std::move(behaviour)) {}

  // Counts as a launch: noise and drift are drawn anew.
  base::Result<std::shared_ptr<const Launch>> launch(const Flags& flags);
  // What the scenario says of these flags, without a launch. Unknown behaviours are errors.
  base::Result<Scenario> judge(const Flags& flags) const;

 private:
  base::Result<uint64_t> next_number(const Scenario& scenario);

  std::string text_, where_, behaviour_;
  uint64_t launches_ = 0;
};

// The flags after POST /reconfigure with this body. Errors: an axis that is not among `axes`, a value that
// makes no sense.
base::Result<Flags> reconfigured(const Flags& flags, const base::Json& body,
                                 const std::vector<std::string>& axes);

}  // namespace fake
