// What a child that is asked lines may do: answer, die, fall silent, flood, not read, leave others behind.

#include "src/os/conversation.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "src/os/files.h"
#include "src/os/proc.h"
#include "tests/os/scratch.h"

namespace {

os::LaunchSpec shell(const Scratch& scratch, const std::string& script) {
  os::LaunchSpec spec;
  spec.argv = {"/bin/sh", "-c", script};
  spec.log_path = scratch / "log";
  spec.guard_program = AR_TEST_HELPER;
  return spec;
}

bool has(const std::string& text, const char* piece) {
  return text.find(piece) != std::string::npos;
}

}  // namespace

TEST_CASE("a conversation: line by line, stderr to the log, and nothing is left behind") {
  Scratch scratch;
  // A grandchild in the background, which holds no pipe but would live on.
  auto talk =
      os::Conversation::start(shell(scratch,
                                    "sleep 600 </dev/null >/dev/null 2>&1 & echo early; echo to the log >&2; "
                                    "while read -r line; do echo \"<$line>\"; done"));
  REQUIRE(talk.ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  std::string long_line(300000, 'x');  // more than a pipe holds
  for (const std::string& line : {std::string("one"), std::string("two words"), long_line}) {
    auto answer = (*talk)->ask(line, 30, 1 << 20);
    REQUIRE(answer.ok());
    CHECK_EQ(*answer, "<" + line + ">");
  }
  auto mine = os::processes_with_variable("AUTORESEARCH_LAUNCH");  // of every launch on this machine
  std::erase_if(mine, [](const auto& entry) {
    return !has(entry.second, ("-" + std::to_string(getpid()) + "-").c_str());
  });
  CHECK_GE(mine.size(), 2);
  talk->reset();
  for (const auto& [pid, id] : mine) {
    CHECK_FALSE(os::process_start_ticks(pid).has_value());
  }
  CHECK(has(*os::read_file(scratch / "log"), "to the log"));
}

TEST_CASE("a conversation that goes wrong ends in time, and says how") {
  Scratch scratch;
  struct Case {
    const char *script, *says;
  };
  for (const Case& it : {Case{"exit 3", "ended: exit code 3"}, Case{"sleep 600", "timed out after 300 ms"},
                         Case{"read -r line; exec </dev/zero; cat", "answer larger than 1000 bytes"},
                         Case{"exec >/dev/null; sleep 600", "closed its output"},
                         Case{"read -r line; printf half; sleep 600", "timed out after 300 ms"}}) {
    CAPTURE(it.script);
    auto talk = os::Conversation::start(shell(scratch, it.script));
    REQUIRE(talk.ok());
    bool patient = has(it.says, "closed") || has(it.says, "larger") || has(it.says, "ended");
    auto answer = (*talk)->ask(std::string(200000, 'x'), patient ? 30 : 0.3, 1000);
    REQUIRE_FALSE(answer.ok());
    CAPTURE(answer.failure().what);
    CHECK(has(answer.failure().what, it.says));
    CHECK_EQ(answer.failure().next, "see " + (scratch / "log"));
    CHECK_EQ((*talk)->fault() == os::TalkFault::kTimedOut, has(it.says, "timed out"));
  }
  // Whether it ended because of the question: only where it has heard of it.
  for (const Case& it :
       {Case{"sleep 0.2", "unheard"}, Case{"exit 0", "unheard"}, Case{"read -r line; exit 1", ""}}) {
    CAPTURE(it.script);
    auto talk = os::Conversation::start(shell(scratch, it.script));
    REQUIRE(talk.ok());
    CHECK_FALSE((*talk)->ask("question", 30, 1000).ok());
    CHECK_EQ((*talk)->unheard(), has(it.says, "unheard"));
  }
  os::LaunchSpec missing = shell(scratch, "");
  missing.argv = {"no-such-program-anywhere"};
  auto none = os::Conversation::start(missing);
  REQUIRE_FALSE(none.ok());
  CHECK(has(none.failure().what, "not found in PATH"));
}
