#include "src/study/header.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace {

constexpr const char* kSpace =
    "study: s\nmodel: m.bin\naxes:\n  n_batch: {values: [1, 2], default: 1}\n"
    "objective:\n  maximize: decode_tps\nsearch: {until: \"06:00\"}\n";

study::Study parsed(const char* text) {
  auto result = study::parse_space_file(text, "s.yaml");
  REQUIRE(std::holds_alternative<study::Study>(result));
  return std::get<study::Study>(std::move(result));
}

}  // namespace

TEST_CASE("the header brings back the options of the first run, its end time too") {
  study::Study first = parsed(kSpace);
  first.search.until = "07:30";  // --until
  first.search.max_trials = 7;
  first.search.budget_s = 90;
  base::Json header = study::study_header(first, {}, {{"path", "m.bin"}});
  auto again = study::study_of_header(header);
  REQUIRE(again.ok());
  CHECK_EQ(again->search.until, "07:30");
  CHECK_EQ(again->search.max_trials, 7);
  CHECK_EQ(again->search.budget_s, 90);
}

TEST_CASE("what newer rules refuse in a new study does not keep a recorded one from being resumed") {
  study::Study old = parsed(kSpace);
  old.text =
      "study: a/b\nmodel: m.bin\naxes:\n  n_batch: {values: [1, 2], default: 1}\n"
      "objective:\n  pareto: [decode_tps, prefill_tps, 0 - ttft_ms, 0 - rss_gib]\n";
  CHECK(std::holds_alternative<study::SpaceFileErrors>(study::parse_space_file(old.text, "s.yaml")));
  const auto again = study::study_of_header(study::study_header(old, {}, {{"path", "m.bin"}}));
  REQUIRE_MESSAGE(again.ok(), (again.ok() ? "" : again.failure().to_string()));
  CHECK_EQ(again->name, "a/b");
  CHECK_EQ(again->objective.maximize.size(), 4);
}

TEST_CASE("a header whose space text was changed is refused") {
  base::Json header = study::study_header(parsed(kSpace), {}, {{"path", "m.bin"}});
  header["space"] = std::string(kSpace) + "# more\n";
  auto again = study::study_of_header(header);
  REQUIRE_FALSE(again.ok());
  CHECK(again.failure().to_string().find("hash") != std::string::npos);
}

TEST_CASE("models that begin alike and are as long are told apart by a sample of their weights") {
  const auto path = std::filesystem::temp_directory_path() / ("ar-model-" + std::to_string(::getpid()));
  std::string bytes(3 << 20, 'x');
  auto identity = [&] {
    std::ofstream(path, std::ios::binary) << bytes;
    auto model = study::model_identity(path.string(), study::BackendKind::kOpenAi);
    REQUIRE(model.ok());
    return *model;
  };
  const base::Json one = identity();
  bytes.back() = 'y';
  const base::Json end = identity();
  bytes[bytes.size() / 2 - 1] = 'y';
  const base::Json middle = identity();
  bytes.assign(10, 'x');
  CHECK(identity()["slices_hash"].is_string());  // shorter than a piece
  std::filesystem::remove(path);
  CHECK_EQ(one["size"], end["size"]);
  CHECK_EQ(one["head_hash"], end["head_hash"]);
  CHECK_NE(one["slices_hash"], end["slices_hash"]);
  CHECK_NE(end["slices_hash"], middle["slices_hash"]);
}
