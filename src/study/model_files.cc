// Which files a study measures: model_paths() and model_identity() of header.h.

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>

#include "src/gguf/model_files.h"
#include "src/study/header.h"
#include "src/study/journal.h"

namespace study {
namespace {

namespace fs = std::filesystem;

std::string head_of(const std::string& path, size_t bytes) {
  std::ifstream file(path, std::ios::binary);
  std::string head(bytes, '\0');
  file.read(head.data(), static_cast<std::streamsize>(head.size()));
  head.resize(static_cast<size_t>(std::max<std::streamsize>(0, file.gcount())));
  return head;
}

// Of kSlices pieces spread evenly over the file, its end among them: a fine-tune has the metadata and vocabulary of its
// base, and often its size to the byte. A megabyte read, whatever the file's size.
std::string slices_of(const std::string& path, uint64_t size) {
  constexpr uint64_t kSlices = 16, kSlice = 1 << 16;
  std::ifstream file(path, std::ios::binary);
  std::string all;
  for (uint64_t i = 1; i <= kSlices; ++i) {
    const uint64_t end = size / kSlices * i + size % kSlices * i / kSlices;
    std::string slice(kSlice, '\0');
    file.seekg(static_cast<std::streamoff>(end - std::min(end, kSlice)));
    file.read(slice.data(), static_cast<std::streamsize>(std::min(end, kSlice)));
    slice.resize(static_cast<size_t>(std::max<std::streamsize>(0, file.gcount())));
    all += slice;
  }
  return content_hash(all);
}

// Whether every part is there and whole, their sizes together, and what the metadata call the model.
base::Result<void> add_metadata(const std::string& path, base::Json& model) {
  auto opened = gguf::open_model(path, gguf::Access::kMap);
  if (!opened) {
    return opened.failure();
  }
  if (opened->parts.size() > 1) {
    uint64_t total = 0;
    for (const gguf::MappedFile& part : opened->parts) {
      total += part.bytes().size();
    }
    model["parts"] = opened->parts.size();
    model["size"] = total;
  }
  model["name"] = opened->file.get_string("general.name").value_or("");
  model["architecture"] = opened->file.get_string("general.architecture").value_or("");
  model["tensors"] = opened->file.tensors.size();
  return {};
}

}  // namespace

std::vector<std::string> model_paths(const Study& study) {
  std::vector<std::string> paths;
  if (const search::Axis* axis = study.space.find("model")) {
    for (const search::Value& value : axis->values) {
      paths.push_back(search::to_string(value));
    }
  } else if (!study.model.empty()) {
    paths.push_back(study.model);
  }
  return paths;
}

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
  const auto modified =  // the file clock's own epoch lies in the future
      std::chrono::file_clock::to_sys(fs::last_write_time(path, problem)).time_since_epoch();
  base::Json model = {{"path", fs::absolute(path).lexically_normal().string()},
                      {"size", fs::file_size(path, problem)},
                      {"modified_ns", std::chrono::duration_cast<std::chrono::nanoseconds>(modified).count()},
                      {"head_hash", content_hash(head)},
                      {"slices_hash", slices_of(path, fs::file_size(path, problem))}};
  if (!head.starts_with("GGUF")) {
    if (wants_gguf) {
      return base::error(path, "is no GGUF file",
                         "name the model itself; a .safetensors or .bin must be converted first");
    }
    return model;
  }
  if (auto metadata = add_metadata(path, model); !metadata) {
    return metadata.failure();
  }
  return model;
}

}  // namespace study
