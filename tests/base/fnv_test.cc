#include "src/base/fnv.h"

#include <doctest/doctest.h>

#include <array>

TEST_CASE("FNV-1a: the published values, in one piece or in two") {
  CHECK_EQ(base::fnv1a(""), 0xcbf29ce484222325);
  CHECK_EQ(base::fnv1a("a"), 0xaf63dc4c8601ec8c);
  CHECK_EQ(base::fnv1a("foobar"), 0x85944171f73967e8);
  CHECK_EQ(base::fnv1a("bar", base::fnv1a("foo")), base::fnv1a("foobar"));
  const std::array bytes = {std::byte{'a'}};
  CHECK_EQ(base::fnv1a(std::span<const std::byte>(bytes)), base::fnv1a("a"));
}
