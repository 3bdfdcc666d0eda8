#pragma once
// Small spaces that the tests of this room share.

#include <string>
#include <vector>

#include "search/space.h"

namespace spaces {

inline search::Axis axis(std::string name, const std::vector<int64_t>& values, size_t default_index) {
  search::Axis made;
  made.name = std::move(name);
  made.values.assign(values.begin(), values.end());
  made.default_index = default_index;
  return made;
}

inline search::Axis names(std::string name, const std::vector<std::string>& values, size_t default_index) {
  search::Axis made;
  made.name = std::move(name);
  made.values.assign(values.begin(), values.end());
  made.default_index = default_index;
  made.ordered = false;
  return made;
}

inline search::Axis switches(std::string name) {
  search::Axis made;
  made.name = std::move(name);
  made.values = {true, false};
  made.ordered = false;
  return made;
}

inline const std::vector<std::string> kTypes = {"f16", "q8_0", "q4_0", "tbq4_0", "tbq3_0"};

inline search::Space single_point() {
  search::Space space;
  space.axes = {axis("n_threads", {4}, 0)};
  return space;
}

inline search::Space tiny() {
  search::Space space;
  space.axes = {axis("n_threads", {1, 2}, 0), switches("mmap")};
  return space;
}

inline search::Space constrained() {
  search::Space space;
  space.axes = {axis("n_batch", {128, 512, 2048}, 2), axis("n_ubatch", {64, 256, 512, 1024}, 2),
                names("cache_type_v", kTypes, 0), names("flash_attn", {"on", "off"}, 0)};
  space.constraints = {*search::Expression::parse("n_ubatch <= n_batch"),
                       *search::Expression::parse("flash_attn == on or cache_type_v == f16")};
  return space;
}

// n_max counts only with speculation, n_min only with n_max > 4.
inline search::Space conditional() {
  search::Space space;
  space.axes = {names("spec", {"none", "ngram"}, 0), axis("n_max", {4, 8, 16}, 0),
                axis("n_min", {1, 2, 4}, 0)};
  space.axes[1].active_when = *search::Expression::parse("spec == ngram");
  space.axes[2].active_when = *search::Expression::parse("n_max > 4");
  return space;
}

// The axes that decided the mission.
inline search::Space mission() {
  search::Space space;
  space.axes = {axis("ctx_size", {2048, 16384, 32768, 65536, 98304}, 1), names("cache_type_k", kTypes, 0),
                names("cache_type_v", kTypes, 0), axis("n_threads", {1, 10, 20}, 1), switches("mmap")};
  return space;
}

}  // namespace spaces
