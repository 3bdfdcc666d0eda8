#include "src/engine/file_type.h"

#include <doctest/doctest.h>

#include <set>

TEST_CASE("file types have llama-server's names, and unknown ones their number") {
  CHECK(engine::file_type_name(0) == "all F32");
  CHECK(engine::file_type_name(12) == "Q3_K - Medium");
  CHECK(engine::file_type_name(32) == "BF16");
  CHECK(engine::file_type_name(33) == "file type 33");
  CHECK(engine::file_type_name(-1) == "file type -1");
  CHECK(engine::file_type_name(std::nullopt) == "unknown");
  std::set<std::string> names;
  for (int type = 0; type < 42; ++type) {
    names.insert(engine::file_type_name(type));
  }
  CHECK(names.size() == 42);  // no two alike
}
