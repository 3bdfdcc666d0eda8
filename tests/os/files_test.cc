#include "src/os/files.h"

#include <doctest/doctest.h>
#include <signal.h>
#include <sys/resource.h>

#include <fstream>

#include "tests/os/scratch.h"

TEST_CASE("read_file limits and explains") {
  Scratch scratch;
  std::ofstream(scratch / "a") << std::string(1000, 'x');
  CHECK(os::read_file(scratch / "a", 1000).ok());
  CHECK(os::read_file(scratch / "a", 999).failure().what.find("larger than 999") != std::string::npos);
  CHECK(os::read_file(scratch / ".").failure().what == "is a directory");
  CHECK(os::read_file(scratch / "none").failure().what.find("No such file") != std::string::npos);
  CHECK(os::read_file("/proc/self/stat").ok());  // no size, yet content
  CHECK(os::read_tail(scratch / "a", 10) == "xxxxxxxxxx");
  CHECK(os::read_tail(scratch / "none", 10).empty());
}

TEST_CASE("an append file is locked, appended and cut") {
  Scratch scratch;
  auto file = os::AppendFile::open(scratch / "journal");
  REQUIRE(file.ok());
  auto second = os::AppendFile::open(scratch / "journal");
  REQUIRE_FALSE(second.ok());
  CHECK(second.failure().what == "locked by another process");
  bool locked = false;
  CHECK_FALSE(os::AppendFile::open(scratch / "journal", &locked).ok());
  CHECK(locked);
  CHECK_FALSE(os::AppendFile::open(scratch / ".", &locked).ok());
  CHECK_FALSE(locked);
  REQUIRE(file->append("line 1\n").ok());
  REQUIRE(file->append("line 2\n").ok());
  CHECK(file->size() == 14);
  REQUIRE(file->truncate(7).ok());
  REQUIRE(file->append("line B\n").ok());
  os::AppendFile moved = std::move(*file);
  CHECK(*os::read_file(scratch / "journal") == "line 1\nline B\n");
  CHECK_FALSE(os::AppendFile::open(scratch / "journal").ok());  // the lock moved along
  { os::AppendFile gone = std::move(moved); }
  auto again = os::AppendFile::open(scratch / "journal");
  REQUIRE(again.ok());
  CHECK(again->size() == 14);
  CHECK_FALSE(os::AppendFile::open(scratch / ".").ok());
}

TEST_CASE("an append that does not fit leaves the file as it was") {
  Scratch scratch;
  auto file = os::AppendFile::open(scratch / "journal");
  REQUIRE(file.ok());
  REQUIRE(file->append("whole line\n").ok());
  ::signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  rlimit small{4096, old.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  auto failed = file->append(std::string(10000, 'x') + "\n");
  setrlimit(RLIMIT_FSIZE, &old);
  REQUIRE_FALSE(failed.ok());
  CHECK(failed.failure().what.find("cannot be appended to: ") != std::string::npos);
  CHECK(*os::read_file(scratch / "journal") == "whole line\n");
  CHECK(file->append("next\n").ok());
  CHECK(file->size() == 16);
}

TEST_CASE("programs and directories are found") {
  CHECK(os::find_in_path("sh").ends_with("/sh"));
  CHECK(os::find_in_path("no-such-program-xyz").empty());
  CHECK(os::find_in_path("").empty());
  CHECK(os::program_directory().ends_with("/tests"));
  Scratch scratch;
  CHECK(os::make_directories(scratch / "a/b/c").ok());
  CHECK(os::make_directories(scratch / "a/b/c").ok());
  std::ofstream(scratch / "file") << "";
  CHECK_FALSE(os::make_directories(scratch / "file").ok());
}
