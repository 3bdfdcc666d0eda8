#pragma once
// A model's file, or all the parts of a split one ("x-00001-of-00003.gguf" and its siblings), opened and joined:
// the metadata of the first part, the tensors of all. join_parts() is pure; open_model() reads the file system.

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "src/base/error.h"
#include "src/gguf/gguf.h"

namespace gguf {

// "m/x-00002-of-00003.gguf" is {"m/x", 2, 3}.
struct SplitName {
  std::string stem;
  int number = 0, count = 0;
  std::string part(int i) const;  // the path of part i, from 1
};
// nullopt for names of another form, and where not 1 <= number <= count.
std::optional<SplitName> parse_split_name(const std::string& path);

// The one file that parsed parts make up; paths[i] is where files[i] was read, in order from the first. Errors: a part
// that is another one or of another model, a tensor in two parts, tensors too few or too many. What cannot be known:
// parts of two quantizations of one model agree in all that a part says of itself (later parts say only their number
// and the number of tensors; types differ within a model, too), so files mixed under one name pass as one model.
base::Result<File> join_parts(std::vector<File> files, std::span<const std::string> paths);

struct ModelFiles {
  File file;                       // Tensor::part is an index into the two below
  std::vector<std::string> paths;  // the first is the one that was named
  std::vector<MappedFile> parts;

  const std::byte* data(const Tensor& tensor) const {
    return parts[tensor.part].bytes().data() + tensor.offset;
  }
};

// kRead copies the bytes into anonymous memory; both check everything before a byte of weights is read.
enum class Access { kMap, kRead };
// `path` must be the first part; an Error names it where another one was given.
base::Result<ModelFiles> open_model(const std::string& path, Access access);

}  // namespace gguf
