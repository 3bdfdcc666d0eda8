#include "src/base/suggest.h"

#include <string>
#include <vector>

#include <doctest/doctest.h>

namespace base {
namespace {

TEST_CASE("edit distance counts insertions, deletions, substitutions and swaps of neighbours") {
  CHECK(edit_distance("", "") == 0);
  CHECK(edit_distance("", "abc") == 3);
  CHECK(edit_distance("abc", "abc") == 0);
  CHECK(edit_distance("threads", "thread") == 1);
  CHECK(edit_distance("port", "part") == 1);
  CHECK(edit_distance("prot", "port") == 1);
  CHECK(edit_distance("kitten", "sitting") == 3);
}

TEST_CASE("the closest word, or none when nothing is near") {
  std::vector<std::string> known = {"--ctx-size", "--threads", "--port"};
  CHECK(closest("--ctx_sise", known) == "--ctx-size");
  CHECK(closest("--THREAD", known) == "--threads");
  CHECK(closest("--something-else", known) == "");
  CHECK(closest(std::string(65, 'x'), known) == "");
  CHECK(closest("abc", {}) == "");
  CHECK(did_you_mean("--prot", known) == "did you mean --port?");
  CHECK(did_you_mean("--something-else", known) == "use one of --ctx-size, --threads, --port");
}

}  // namespace
}  // namespace base
