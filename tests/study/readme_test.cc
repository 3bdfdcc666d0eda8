// The space file that README shows is one the program reads; so are those of configs/grids.

#include <doctest/doctest.h>

#include <filesystem>
#include <string>

#include "src/os/files.h"
#include "src/study/study.h"

TEST_CASE("the README's space file parses") {
  auto readme = os::read_file(AR_SOURCE_DIR "/README.md");
  REQUIRE(readme.ok());
  const std::string kOpen = "```yaml\n";
  size_t begin = readme->find(kOpen);
  REQUIRE(begin != std::string::npos);
  begin += kOpen.size();
  std::string yaml = readme->substr(begin, readme->find("```", begin) - begin);
  auto parsed = study::parse_space_file(yaml, AR_SOURCE_DIR "/readme.yaml");
  if (const auto* errors = std::get_if<study::SpaceFileErrors>(&parsed)) {
    FAIL(errors->to_string());
  }
  const auto& study = std::get<study::Study>(parsed);
  CHECK_EQ(study.space.axes.size(), 4);
  CHECK_EQ(study.search.budget_s, 8 * 3600);
  CHECK_GE(study.probes.quality_items.size(), 40);
}

TEST_CASE("the space files of grids parse, and a grid of each is large enough to replay") {
  int files = 0;
  for (const auto& file : std::filesystem::directory_iterator(AR_SOURCE_DIR "/configs/grids")) {
    CAPTURE(file.path().string());
    auto parsed = study::load_space_file(file.path().string());
    if (const auto* errors = std::get_if<study::SpaceFileErrors>(&parsed)) {
      FAIL(errors->to_string());
    }
    const auto& study = std::get<study::Study>(parsed);
    CHECK_EQ(study.search.strategy, "grid");
    CHECK_EQ(study.search.repeats, 3);
    CHECK_GE(study.space.grid_size(), 150);
    CHECK_EQ(study.objective.pareto, file.path().stem() == "pareto");
    ++files;
  }
  CHECK_EQ(files, 4);
}

TEST_CASE("the example of a language model parses; its key is named, not given") {
  auto parsed = study::load_space_file(AR_SOURCE_DIR "/configs/llm-example.yaml");
  if (const auto* errors = std::get_if<study::SpaceFileErrors>(&parsed)) {
    FAIL(errors->to_string());
  }
  const auto& search = std::get<study::Study>(parsed).search;
  CHECK_EQ(search.strategy, "two-phase");
  REQUIRE(search.plugin.has_value());
  CHECK_EQ(search.plugin->argv.front(), "autoresearch-llm");
  CHECK_EQ(search.plugin->key_env, "ANTHROPIC_API_KEY");
  CHECK(search.plugin->key_needed);
}
