// Which file a study measures: model_identity() of header.h.

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <optional>

#include "src/gguf/gguf.h"
#include "src/study/header.h"
#include "src/study/journal.h"

namespace study {
namespace {

namespace fs = std::filesystem;

// "x-00002-of-00003.gguf" -> "x-", 3; nullopt for any other name.
struct SplitName {
  std::string stem;
  int count = 0;
};
std::optional<SplitName> parse_split_name(const std::string& path) {
  constexpr std::string_view kShape = "-00001-of-00003.gguf";
  if (path.size() <= kShape.size()) {
    return std::nullopt;
  }
  std::string_view tail = std::string_view(path).substr(path.size() - kShape.size());
  for (size_t i = 0; i < kShape.size(); ++i) {
    bool digit = std::isdigit(static_cast<unsigned char>(kShape[i])) != 0;
    if (digit ? std::isdigit(static_cast<unsigned char>(tail[i])) == 0 : tail[i] != kShape[i]) {
      return std::nullopt;
    }
  }
  SplitName name{path.substr(0, path.size() - kShape.size()), 0};
  std::from_chars(tail.data() + 10, tail.data() + 15, name.count);
  return name.count > 0 ? std::optional(name) : std::nullopt;
}

std::string head_of(const std::string& path, size_t bytes) {
  std::ifstream file(path, std::ios::binary);
  std::string head(bytes, '\0');
  file.read(head.data(), static_cast<std::streamsize>(head.size()));
  head.resize(static_cast<size_t>(std::max<std::streamsize>(0, file.gcount())));
  return head;
}

// All parts of a split model are there; their paths and size together.
base::Result<void> add_parts(const std::string& path, base::Json& model) {
  auto split = parse_split_name(path);
  if (!split) {
    return {};
  }
  uint64_t total = 0;
  std::error_code problem;
  for (int part = 1; part <= split->count; ++part) {
    std::string name = fmt::format("{}-{:05}-of-{:05}.gguf", split->stem, part, split->count);
    if (!fs::exists(name, problem)) {
      return base::error(name, fmt::format("part {} of {} of the model is missing", part, split->count),
                         "download it; a split model needs every part in one directory");
    }
    if (!head_of(name, 4).starts_with("GGUF")) {
      return base::error(name, fmt::format("part {} of {} of the model is no GGUF file", part, split->count),
                         "download it again");
    }
    total += fs::file_size(name, problem);
  }
  model["parts"] = split->count;
  model["size"] = total;
  return {};
}

base::Result<void> add_metadata(const std::string& path, base::Json& model) {
  auto mapped = gguf::MappedFile::open(path);
  if (!mapped) {
    return mapped.failure();
  }
  auto parsed = gguf::parse(mapped->bytes(), path);
  if (!parsed) {
    return parsed.failure();
  }
  model["name"] = parsed->get_string("general.name").value_or("");
  model["architecture"] = parsed->get_string("general.architecture").value_or("");
  model["tensors"] = parsed->tensors.size();
  return {};
}

}  // namespace

base::Result<base::Json> model_identity(const std::string& path, BackendKind kind) {
  const bool wants_gguf = kind == BackendKind::kTbqServer || kind == BackendKind::kLlamaServer;
  std::error_code problem;
  fs::file_status status = fs::status(path, problem);
  bool missing = problem || !fs::exists(status);
  if (!wants_gguf && (missing || fs::is_directory(status))) {
    return base::Json::object({{"path", path}});  // a name of a hub, or a checkpoint's directory
  }
  if (missing) {
    return base::error(path, "no such model file", "set model: in the space file, or the variable it names");
  }
  if (fs::is_directory(status)) {
    return base::error(path, "is a directory, not a model file", "name the GGUF file itself");
  }
  std::string head = head_of(path, 1 << 20);
  if (head.empty()) {
    return base::error(path, "the model file is empty or unreadable", "check the path and its permissions");
  }
  auto modified = fs::last_write_time(path, problem).time_since_epoch();
  base::Json model = {{"path", fs::absolute(path).lexically_normal().string()},
                      {"size", fs::file_size(path, problem)},
                      {"modified_ns", std::chrono::duration_cast<std::chrono::nanoseconds>(modified).count()},
                      {"head_hash", content_hash(head)}};
  if (!head.starts_with("GGUF")) {
    if (wants_gguf) {
      return base::error(path, "is no GGUF file",
                         "name the model itself; a .safetensors or .bin must be converted first");
    }
    return model;
  }
  if (auto parts = add_parts(path, model); !parts) {
    return parts.failure();
  }
  if (auto metadata = add_metadata(path, model); !metadata) {
    return metadata.failure();
  }
  return model;
}

}  // namespace study
