// Any bytes as a GGUF file: parsed or refused; where it is a model, it loads, its vocabulary tokenizes and it computes.
// And as a file of means of K and V.

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "src/base/log.h"
#include "src/engine/context.h"
#include "src/engine/kv_means.h"
#include "src/engine/tokenizer.h"
#include "src/gguf/model_files.h"

namespace {

// An anonymous file, the only kind that load_model() can open without a file system.
class MemoryFile {
 public:
  MemoryFile() : fd_(::memfd_create("gguf-fuzz", MFD_CLOEXEC)) { AR_CHECK(fd_ >= 0, "no anonymous file"); }
  ~MemoryFile() { ::close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  std::string write(std::span<const std::byte> bytes) const {
    AR_CHECK(::ftruncate(fd_, 0) == 0, "cannot empty it");
    AR_CHECK(::pwrite(fd_, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()),
             "cannot fill it");
    return "/proc/self/fd/" + std::to_string(fd_);
  }

 private:
  int fd_;
};

void check_bounds(const gguf::File& file, size_t size) {
  for (const gguf::Tensor& tensor : file.tensors) {
    AR_CHECK(tensor.offset <= size && tensor.bytes <= size - tensor.offset, "a tensor beyond the file");
    AR_CHECK(file.find(tensor.name) == &tensor, "a tensor that cannot be found");
  }
  for (const auto& [key, value] : file.metadata) {
    file.get_int(key);
    file.get_float(key);
    file.get_bool(key);
    file.get_string(key);
    file.get_array(key);
  }
}

// The second half as a second part of the first: joined or refused.
void join_halves(std::span<const std::byte> bytes) {
  const std::vector<std::string> paths{"m-00001-of-00002.gguf", "m-00002-of-00002.gguf"};
  auto first = gguf::parse(bytes.first(bytes.size() / 2), paths[0]);
  auto second = gguf::parse(bytes.subspan(bytes.size() / 2), paths[1]);
  if (first && second) {
    std::vector<gguf::File> files;
    files.push_back(*std::move(first));
    files.push_back(*std::move(second));
    (void)gguf::join_parts(std::move(files), paths).ok();
  }
}

void use(const std::string& path) {
  const auto model = engine::load_model(path, {});
  if (!model) {
    AR_CHECK(!model.failure().what.empty(), "a refusal without a reason");
    return;
  }
  auto tokenizer = engine::Tokenizer::from_gguf((*model)->file, path);
  if (tokenizer) {
    const auto tokens = tokenizer->encode("Once upon \xFF a time<|im_end|>", true, true);
    for (const int token : tokens) {
      AR_CHECK(tokenizer->in_range(token), "a token outside the vocabulary");
    }
    tokenizer->decode(tokens, true);
  }
  // Tensors may lie over one another, so that a small file describes a wide model: only small ones are run.
  if ((*model)->weight_bytes > (1u << 20) || (*model)->hp.n_head > 256) {
    return;
  }
  engine::ContextOptions options;
  options.n_ctx = 256;
  options.n_batch = options.n_ubatch = 2;
  options.n_threads = 1;
  auto context = engine::Context::open(*model, options);
  if (context) {
    const std::vector<int> tokens{0, (*model)->hp.n_vocab - 1, 0};
    (void)(*context)->eval(0, tokens).ok();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const MemoryFile memory;
  base::set_log_level(base::LogLevel::kError);
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto file = gguf::parse(bytes, "fuzz.gguf");
  if (file) {
    check_bounds(*file, size);
    if (size > 0) {
      use(memory.write(bytes));
    }
  }
  join_halves(bytes);
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto means = engine::parse_kv_means(text, "fuzz")) {
    AR_CHECK(engine::write_kv_means(*means) == text, "means that are written otherwise than they were read");
  }
  return 0;
}
