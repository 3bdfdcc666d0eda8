#include "src/engine/flat_table.h"

#include <doctest/doctest.h>

using engine::FlatTable;

TEST_CASE("values of one key keep their order, however often the table grows and wherever they lie") {
  for (uint64_t key = 0; key < 100;
       ++key) {  // some of which begin at the end of the table and go on at its start
    CAPTURE(key);
    FlatTable<int> table;
    for (int value = 0; value < 6; ++value) {
      table.insert(key, value);
    }
    for (int more = 0; more < 300; ++more) {
      table.insert(1000 + static_cast<uint64_t>(more), -more);
      const int* first = table.find(key);
      REQUIRE(first != nullptr);
      REQUIRE(*first == 0);
      const int* odd = table.find(key, [](int value) { return value % 2 == 1; });
      REQUIRE(odd != nullptr);
      REQUIRE(*odd == 1);
    }
    CHECK(table.size() == 306);
    CHECK(*table.find(1299) == -299);
    CHECK(table.find(5000) == nullptr);
  }
}

TEST_CASE("an empty table has nothing, reserved or not") {
  FlatTable<int> table;
  CHECK(table.find(0) == nullptr);
  table.reserve(100);
  CHECK(table.find(0) == nullptr);
  CHECK(table.size() == 0);
}
