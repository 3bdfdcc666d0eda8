#include "src/study/journal.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace {

std::string header_line() {
  return R"({"type":"study","schema_version":1,"study_id":"s"})"
         "\n";
}

// Parameters by a name of their own, and their hash.
base::Json params(const char* name) {
  return {{"axis", name}};
}
std::string hash(const char* name) {
  return study::params_hash(params(name));
}
base::Json record(const char* type, int id, const char* name, int attempt) {
  return {{"type", type},
          {"trial_id", id},
          {"params", params(name)},
          {"params_hash", hash(name)},
          {"attempt", attempt}};
}
std::string line(const char* type, int id, const char* name, int attempt) {
  return base::dump_line(record(type, id, name, attempt)) + "\n";
}

struct Directory {
  std::string path =
      (std::filesystem::temp_directory_path() / ("ar-journal-" + std::to_string(getpid()))).string();
  Directory() { std::filesystem::create_directories(path); }
  ~Directory() { std::filesystem::remove_all(path); }
};

std::string contents(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write(const std::string& path, const std::string& text) {
  std::ofstream(path) << text;
}

}  // namespace

TEST_CASE("params_hash does not depend on the order of the axes, and is stable for ever") {
  base::Json a = {{"ctx_size", 4096}, {"cache_type_k", "q8_0"}};
  base::Json b = {{"cache_type_k", "q8_0"}, {"ctx_size", 4096}};
  CHECK_EQ(study::params_hash(a), study::params_hash(b));
  CHECK_NE(study::params_hash(a), study::params_hash({{"ctx_size", 4096}, {"cache_type_k", "q4_0"}}));
  CHECK_EQ(study::content_hash(""), "cbf29ce484222325");  // FNV-1a 64, published vectors
  CHECK_EQ(study::content_hash("a"), "af63dc4c8601ec8c");
  CHECK_EQ(study::content_hash("foobar"), "85944171f73967e8");
}

TEST_CASE("a journal reads back with its interrupted trials and attempts") {
  auto content =
      study::read_journal(header_line() + line("trial_start", 1, "aa", 1) + line("trial_end", 1, "aa", 1) +
                              line("trial_start", 2, "bb", 1) + line("trial_start", 2, "bb", 2),
                          "j");
  REQUIRE(content.ok());
  CHECK_EQ(content->of_type("trial_start").size(), 3);
  CHECK_EQ(content->interrupted().size(), 2);
  CHECK_EQ(content->last_attempt(hash("bb")), 2);
  CHECK_EQ(content->last_attempt(hash("zz")), 0);
  CHECK_EQ(content->last_trial_id(), 2);
}

TEST_CASE("a torn last line is cut, a whole one without its newline is kept") {
  std::string whole = header_line() + line("trial_start", 1, "aa", 1);
  auto torn = study::read_journal(whole + R"({"type":"trial_e)", "j");
  REQUIRE(torn.ok());
  CHECK(torn->torn);
  CHECK_EQ(torn->complete_bytes, whole.size());

  std::string unended = whole + line("trial_end", 1, "aa", 1);
  unended.pop_back();
  auto kept = study::read_journal(unended, "j");
  REQUIRE(kept.ok());
  CHECK_FALSE(kept->torn);
  CHECK(kept->missing_newline);
  CHECK(kept->interrupted().empty());
}

TEST_CASE("damage is named by its line") {
  struct Case {
    const char* name;
    std::string text, what;
    int line;
  };
  const std::string start = line("trial_start", 1, "aa", 1), end = line("trial_end", 1, "aa", 1);
  std::string edited = end;  // by hand
  edited.replace(edited.find("\"aa\""), 4, "\"ab\"");
  const Case cases[] = {
      {"garbage in the middle", header_line() + "\x01\x02 not json\n" + start, "parse error", 2},
      {"not an object", header_line() + "[1,2]\n", "not a JSON object", 2},
      {"no header", start, "no journal of autoresearch", 1},
      {"some other file", "study: s\nmodel: m\n", "no journal of autoresearch", 1},
      {"two headers", header_line() + header_line(), "second study header", 2},
      {"newer schema", "{\"type\":\"study\",\"schema_version\":2}\n", "schema_version is 2", 1},
      {"another space",
       R"({"type":"study","schema_version":1,"space":"study: s\n","space_hash":"00"})"
       "\n" +
           start,
       "not the one that its space_hash was taken of", 1},
      {"two ends", header_line() + start + end + end, "ends twice", 4},
      {"two starts", header_line() + start + start, "starts twice", 3},
      {"end without start", header_line() + end, "without its trial_start", 2},
      {"other params", header_line() + start + edited, "trial 1 are not those", 3},
      {"no hash", header_line() + "{\"type\":\"trial_start\",\"trial_id\":1}\n", "without trial_id", 2},
  };
  for (const Case& c : cases) {
    CAPTURE(c.name);
    auto content = study::read_journal(c.text, "runs/x.jsonl");
    REQUIRE_FALSE(content.ok());
    CHECK_EQ(content.failure().where, "runs/x.jsonl:" + std::to_string(c.line));
    CHECK_NE(content.failure().what.find(c.what), std::string::npos);
  }
  CHECK_FALSE(study::read_journal("", "j").ok());
}

TEST_CASE("opening for append mends the tail, keeps what is whole and locks") {
  Directory directory;
  std::string path = directory.path + "/j.jsonl";
  std::string whole = header_line() + line("trial_start", 1, "aa", 1);
  write(path, whole + "{\"type\":\"trial_e");
  {
    auto opened = study::Journal::open(path);
    REQUIRE(opened.ok());
    CHECK(opened->second.torn);
    CHECK_EQ(contents(path), whole);
    auto second = study::Journal::open(path);
    REQUIRE_FALSE(second.ok());
    CHECK_NE(second.failure().to_string().find("lock"), std::string::npos);
    REQUIRE(opened->first.append(record("trial_end", 1, "aa", 1)).ok());
  }
  CHECK_EQ(contents(path), whole + line("trial_end", 1, "aa", 1));

  std::string unended = contents(path);
  unended.pop_back();
  write(path, unended);
  REQUIRE(study::Journal::open(path).ok());
  CHECK_EQ(contents(path), unended + "\n");
}

TEST_CASE("a new journal never overwrites") {
  Directory directory;
  std::string path = directory.path + "/new.jsonl";
  base::Json header = {{"type", "study"}, {"schema_version", 1}};
  { REQUIRE(study::Journal::create(path, header).ok()); }
  auto again = study::Journal::create(path, header);
  REQUIRE_FALSE(again.ok());
  CHECK_NE(again.failure().next.find("autoresearch resume"), std::string::npos);

  std::string torn = directory.path + "/torn.jsonl";
  write(torn, "{\"type\":\"study\",\"sch");  // the driver died in its very first write
  REQUIRE(study::Journal::create(torn, header).ok());
  CHECK_EQ(contents(torn), base::dump_line(header) + "\n");

  std::string foreign = directory.path + "/notes.txt";
  write(foreign, "my notes");
  CHECK_FALSE(study::Journal::create(foreign, header).ok());
  CHECK_EQ(contents(foreign), "my notes");
  CHECK_FALSE(study::Journal::open(directory.path + "/missing.jsonl").ok());
}
