#include "src/os/pipe.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <fstream>
#include <thread>

#include "tests/os/scratch.h"

TEST_CASE("a pipe is read to its end, and not waited for where nobody writes") {
  Scratch scratch;
  const std::string pipe = scratch / "pipe";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  auto silent = os::read_file_or_pipe(pipe, 0.05);
  REQUIRE_FALSE(silent.ok());
  CHECK(silent.failure().what == "is a pipe that gave nothing for 0.05 s");
  const std::string text(200000, 'x');  // more than a pipe holds
  std::jthread writer([&] { std::ofstream(pipe) << text; });
  auto whole = os::read_file_or_pipe(pipe, 30);
  REQUIRE(whole.ok());
  CHECK(*whole == text);
  CHECK(os::read_file_or_pipe("/dev/zero", 1).failure().what == "is neither a file nor a pipe");
  CHECK(os::read_file_or_pipe(scratch / "none", 1).failure().what.find("No such file") != std::string::npos);
}
