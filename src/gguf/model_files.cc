#include "src/gguf/model_files.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <filesystem>
#include <utility>

namespace gguf {
namespace {

constexpr std::string_view kNumberKey = "split.no";  // from 0
constexpr std::string_view kCountKey = "split.count";
constexpr std::string_view kTensorsKey = "split.tensors.count";
// Keys that a converter writes into the first part alone; where a later part has them too, they must agree.
constexpr std::array<std::string_view, 3> kIdentity = {"general.architecture", "general.name",
                                                       "general.basename"};
constexpr const char* kSameDownload = "put the parts of one download beside each other";

// How many parts the first file says there are; 1 for a model that is not split.
base::Result<int> count_parts(const File& first, const std::string& path) {
  if (!first.metadata.contains(std::string(kCountKey))) {
    return 1;
  }
  const int64_t count = first.get_int(kCountKey).value_or(-1);
  const auto name = parse_split_name(path);
  if (count < 0 || count > 99999) {
    return base::error(path, fmt::format("metadata key '{}' is no number of parts", kCountKey),
                       "download or split the model again");
  }
  if (count <= 1) {
    return 1;
  }
  const int64_t number = first.get_int(kNumberKey).value_or(0);
  if (number != 0) {
    const std::string part =
        number > 0 && number < count ? fmt::format("part {} of {}", number + 1, count) : "a part";
    return base::error(
        path, fmt::format("this is {} of a split model, not the first", part),
        fmt::format("give the first part: {}",
                    name ? name->part(1) : fmt::format("the file -00001-of-{:05}.gguf", count)));
  }
  if (!name) {
    return base::error(
        path, fmt::format("it says that it is the first of {} parts, but is not named so", count),
        fmt::format("rename it to end in -00001-of-{:05}.gguf, with the other parts beside it", count));
  }
  if (name->number != 1 || name->count != count) {
    return base::error(path,
                       fmt::format("it says that it is part 1 of {}, but its name says part {} of {}", count,
                                   name->number, name->count),
                       kSameDownload);
  }
  return static_cast<int>(count);
}

base::Result<void> check_part(const File& file, const File& first, size_t i, size_t n,
                              const std::string& path) {
  const auto number = file.get_int(kNumberKey), count = file.get_int(kCountKey);
  if (!number || !count) {
    return base::error(
        path, fmt::format("it should be part {} of {} of a split model, but is no part of one", i + 1, n),
        kSameDownload);
  }
  if (*number != static_cast<int64_t>(i) || *count != static_cast<int64_t>(n)) {
    return base::error(path,
                       fmt::format("it should be part {} of {}, but says that it is part {} of {}", i + 1, n,
                                   *number < INT64_MAX ? *number + 1 : *number, *count),
                       kSameDownload);
  }
  const auto total = file.get_int(kTensorsKey), first_total = first.get_int(kTensorsKey);
  if (total && first_total && *total != *first_total) {
    return base::error(
        path,
        fmt::format("it is part of another model: of one with {} tensors, where the first part's has {}",
                    *total, *first_total),
        kSameDownload);
  }
  for (const std::string_view key : kIdentity) {
    const auto held = file.get_string(key);
    if (held && held != first.get_string(key)) {
      return base::error(path,
                         fmt::format("it is part of another model: its '{}' is '{}', the first part's '{}'",
                                     key, *held, first.get_string(key).value_or("")),
                         kSameDownload);
    }
  }
  return {};
}

}  // namespace

std::string SplitName::part(int i) const {
  return fmt::format("{}-{:05}-of-{:05}.gguf", stem, i, count);
}

std::optional<SplitName> parse_split_name(const std::string& path) {
  constexpr std::string_view kShape = "-00000-of-00000.gguf";
  if (path.size() <= kShape.size()) {
    return std::nullopt;
  }
  const std::string_view tail = std::string_view(path).substr(path.size() - kShape.size());
  for (size_t i = 0; i < kShape.size(); ++i) {
    const bool digit = tail[i] >= '0' && tail[i] <= '9';
    if (kShape[i] == '0' ? !digit : tail[i] != kShape[i]) {
      return std::nullopt;
    }
  }
  SplitName name{path.substr(0, path.size() - kShape.size()), 0, 0};
  std::from_chars(tail.data() + 1, tail.data() + 6, name.number);
  std::from_chars(tail.data() + 10, tail.data() + 15, name.count);
  return name.number >= 1 && name.number <= name.count ? std::optional(name) : std::nullopt;
}

base::Result<File> join_parts(std::vector<File> files, std::span<const std::string> paths) {
  AR_CHECK(!files.empty() && files.size() == paths.size(), "parts and their paths differ in number");
  File joined = std::move(files.front());
  for (size_t i = 1; i < files.size(); ++i) {
    if (auto fits = check_part(files[i], joined, i, files.size(), paths[i]); !fits) {
      return fits.failure();
    }
    for (Tensor& tensor : files[i].tensors) {
      const auto [held, fresh] = joined.tensor_index.emplace(tensor.name, joined.tensors.size());
      if (!fresh) {
        return base::error(
            paths[i],
            fmt::format("tensor '{}' is in part {}, too", tensor.name, joined.tensors[held->second].part + 1),
            kSameDownload);
      }
      tensor.part = static_cast<uint32_t>(i);
      joined.tensors.push_back(std::move(tensor));
    }
  }
  const auto total = joined.get_int(kTensorsKey);
  if (files.size() > 1 && total && *total != static_cast<int64_t>(joined.tensors.size())) {
    return base::error(paths.front(),
                       fmt::format("it promises {} tensors in {} parts, but they hold {}", *total,
                                   files.size(), joined.tensors.size()),
                       kSameDownload);
  }
  return joined;
}

base::Result<ModelFiles> open_model(const std::string& path, Access access) {
  ModelFiles model;
  std::vector<File> files;
  int count = 1;
  for (int i = 1; i <= count; ++i) {
    const std::string part = i == 1 ? path : parse_split_name(path)->part(i);
    std::error_code unknown;
    if (i > 1 && !std::filesystem::exists(part, unknown)) {
      return base::error(part, fmt::format("part {} of {} of the model is missing", i, count),
                         "download it; a split model needs every part in one directory");
    }
    auto mapped = MappedFile::open(part);
    if (!mapped) {
      return mapped.failure();
    }
    auto file = parse(mapped->bytes(), part);
    if (!file) {
      return file.failure();
    }
    if (i == 1) {
      auto counted = count_parts(*file, path);
      if (!counted) {
        return counted.failure();
      }
      count = *counted;
    }
    model.paths.push_back(part);
    model.parts.push_back(*std::move(mapped));
    files.push_back(*std::move(file));
  }
  auto joined = join_parts(std::move(files), model.paths);
  if (!joined) {
    return joined.failure();
  }
  model.file = *std::move(joined);
  for (size_t i = 0; access == Access::kRead && i < model.parts.size(); ++i) {
    auto read = MappedFile::read(model.paths[i]);
    if (!read) {
      return read.failure();
    }
    if (read->bytes().size() != model.parts[i].bytes().size()) {
      return base::error(model.paths[i], "the file changed while it was read", "wait until it is complete");
    }
    model.parts[i] = *std::move(read);
  }
  return model;
}

}  // namespace gguf
