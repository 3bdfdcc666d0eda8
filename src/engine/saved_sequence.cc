#include "src/engine/saved_sequence.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "src/base/fnv.h"
#include "src/engine/kv_means.h"

namespace engine {
namespace {

using base::Json;

constexpr std::string_view kMagic = "TBQSEQ01";
constexpr uint64_t kMaxHeader = 1 << 20;
// Rows of the same type mean the same numbers: raised when a codebook, a rotation or a page's layout changes.
constexpr int kRowsVersion = 1;
// Pages are copied in parts of about this size: a few milliseconds in which their cache does nothing else.
constexpr size_t kPartBytes = size_t{16} << 20;

std::string side(const kernels::KvFormat& format, bool rotated) {
  return rotated && !format.rotated ? fmt::format("{} rotated", format.name) : std::string(format.name);
}

// Hidden, and this writer's own: no name that anybody may ask for.
std::string part_of(const std::string& path) {
  static std::atomic<unsigned> n_writers = 0;
  const std::filesystem::path whole = path;
  return (whole.parent_path() /
          fmt::format(".{}.{}.{}.part", whole.filename().string(), ::getpid(), n_writers++))
      .string();
}

// Takes the descriptor over.
FileHandle open_stream(int fd, const char* mode) {
  FileHandle file(fd < 0 ? nullptr : ::fdopen(fd, mode));
  if (fd >= 0 && !file) {
    const int why = errno;
    ::close(fd);
    errno = why;
  }
  return file;
}

// Calls with the first page of each part and a buffer for it.
template <class Part>
base::Result<void> for_each_part(const SequencePages& pages, Part&& part) {
  const size_t at_once = std::max<size_t>(1, kPartBytes / std::max<size_t>(1, pages.page_bytes));
  std::vector<std::byte> buffer;
  for (size_t first = 0; first < static_cast<size_t>(pages.n); first += at_once) {
    buffer.resize(std::min(at_once, static_cast<size_t>(pages.n) - first) * pages.page_bytes);
    if (auto done = part(static_cast<int>(first), std::span(buffer)); !done) {
      return done;
    }
  }
  return {};
}

template <class T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

// Without the number of tokens.
Json cache_shape(const Model& model, const KvPlan& plan) {
  Json layers = Json::array();
  for (const KvLayer& layer : plan.layers) {
    layers.push_back({side(*layer.k, layer.rotate_k), side(*layer.v, layer.rotate_v), layer.heads,
                      layer.dim_k, layer.dim_v});
  }
  return {{"rows", kRowsVersion},
          {"model", fmt::format("{:016x}", model.fingerprint)},
          {"means", plan.means ? Json(plan.means->id_text()) : Json(nullptr)},
          {"page_tokens", plan.page_tokens},
          {"layers", std::move(layers)}};
}

}  // namespace

std::string sequence_header(const Model& model, const KvPlan& plan, size_t n_tokens) {
  Json header = cache_shape(model, plan);
  header["n_tokens"] = n_tokens;
  return base::dump_line(header);
}

SequenceWriter::SequenceWriter(std::string path, std::string part, FileHandle file)
    : path_(std::move(path)), part_(std::move(part)), file_(std::move(file)), hash_(base::kFnvOffset) {}

SequenceWriter::~SequenceWriter() {
  if (file_) {  // not committed
    ::unlink(part_.c_str());
  }
}

base::Error SequenceWriter::failed(int errno_value) const {
  return base::sys_error(path_, "cannot write the sequence", errno_value,
                         "free space there or choose another --slot-save-path");
}

base::Result<SequenceWriter> SequenceWriter::create(const std::string& path, std::string_view header,
                                                    std::span<const int> tokens) {
  SequenceWriter writer(path, part_of(path), nullptr);  // first: what it throws must leave no file behind
  const int fd = ::open(writer.part_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  writer.file_ = open_stream(fd, "wb");
  if (!writer.file_) {
    return writer.failed(errno);
  }
  const uint64_t length = header.size();
  for (const std::span<const std::byte> bytes : {std::as_bytes(std::span(kMagic)), bytes_of(length),
                                                 std::as_bytes(std::span(header)), std::as_bytes(tokens)}) {
    if (auto wrote = writer.write(bytes); !wrote) {
      return wrote.failure();
    }
  }
  return writer;
}

base::Result<void> SequenceWriter::write(std::span<const std::byte> bytes) {
  if (std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) != bytes.size()) {
    return failed(errno);
  }
  hash_ = base::fnv1a(bytes, hash_);
  bytes_ += bytes.size();
  return {};
}

base::Result<void> SequenceWriter::write_pages(const SequencePages& from) {
  return for_each_part(from, [&](int first, std::span<std::byte> bytes) -> base::Result<void> {
    auto copied = from.copy(first, bytes);
    return copied ? write(bytes) : copied;
  });
}

base::Result<uint64_t> SequenceWriter::commit() {
  const uint64_t hash = hash_;
  if (auto wrote = write(bytes_of(hash)); !wrote) {
    return wrote.failure();
  }
  if (std::fflush(file_.get()) != 0 || ::rename(part_.c_str(), path_.c_str()) != 0) {
    return failed(errno);
  }
  file_.reset();
  return bytes_;
}

SequenceReader::SequenceReader(std::string path, FileHandle file, uint64_t size)
    : path_(std::move(path)), file_(std::move(file)), size_(size), hash_(base::kFnvOffset) {}

base::Error SequenceReader::damaged(const std::string& what) const {
  return base::error(path_, what, "save the sequence again");
}

base::Result<SequenceReader> SequenceReader::open(const std::string& path) {
  // A pipe by that name would keep the server waiting for its other end.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  struct stat status {};
  if (fd < 0 || ::fstat(fd, &status) != 0) {
    const int why = errno;
    if (fd >= 0) {
      ::close(fd);
    }
    return base::sys_error(path, "cannot read the sequence", why, "save one under that name first");
  }
  FileHandle file = open_stream(fd, "rb");
  SequenceReader reader(path, std::move(file), static_cast<uint64_t>(status.st_size));
  if (!S_ISREG(status.st_mode) || !reader.file_) {
    return reader.damaged("is no file that can be read");
  }
  if (auto fine = reader.read_header(); !fine) {
    return fine.failure();
  }
  return reader;
}

base::Result<void> SequenceReader::read_header() {
  char magic[kMagic.size()];
  uint64_t length = 0;
  if (auto got = read(std::as_writable_bytes(std::span(magic))); !got) {
    return got;
  }
  if (std::string_view(magic, sizeof magic) != kMagic) {
    return damaged("is not a saved sequence (TBQSEQ01)");
  }
  if (auto got = read(std::as_writable_bytes(std::span(&length, 1))); !got) {
    return got;
  }
  if (length > std::min(kMaxHeader, size_)) {
    return damaged(fmt::format("its header would have {} bytes", length));
  }
  std::string text(length, '\0');
  if (auto got = read(std::as_writable_bytes(std::span(text))); !got) {
    return got;
  }
  auto header = base::parse_json(text, path_);
  if (!header) {
    return header.failure();
  }
  header_ = *std::move(header);
  const int64_t n_tokens = base::json_get(header_, "n_tokens", int64_t{-1});
  if (n_tokens < 0 || static_cast<uint64_t>(n_tokens) > size_ / sizeof(int)) {
    return damaged(fmt::format("its header tells of {} tokens, in {} bytes", n_tokens, size_));
  }
  tokens_.resize(static_cast<size_t>(n_tokens));
  pages_at_ = kMagic.size() + sizeof length + length + tokens_.size() * sizeof(int);
  return read(std::as_writable_bytes(std::span(tokens_)));
}

base::Result<void> SequenceReader::check(const Model& model, const KvPlan& plan) const {
  const Json want = cache_shape(model, plan);
  for (const auto& item : want.items()) {
    const std::string& key = item.key();
    const Json& value = item.value();
    const Json got = header_.is_object() && header_.contains(key) ? header_[key] : Json();
    if (got == value) {
      continue;
    }
    if (key == "model") {
      return base::error(path_, "was saved with another model",
                         "load that model, or save the sequence again");
    }
    if (key == "means") {
      return base::error(path_, "holds rows less other means (--kv-center) than this cache has",
                         "start the server with the same --kv-center, --ctx-size and --parallel, or save the "
                         "sequence again");
    }
    size_t layer = 0;
    while (key == "layers" && got.is_array() && layer + 1 < std::min(got.size(), value.size()) &&
           got[layer] == value[layer]) {
      ++layer;
    }
    const auto of_layer = [&](const Json& all) {
      return key == "layers" && all.is_array() && layer < all.size()
                 ? fmt::format("layer {} as {}", layer, base::dump_line(all[layer]))
                 : fmt::format("{} {}", key, base::dump_line(all));
    };
    return base::error(path_, fmt::format("holds {}, this cache {}", of_layer(got), of_layer(value)),
                       "start the server with the same cache types and rotation, or save the sequence again");
  }
  uint64_t page = 0;
  for (const KvLayer& layer : plan.layers) {
    page += layer.page_bytes();
  }
  const uint64_t n_pages = (tokens_.size() + static_cast<uint64_t>(plan.page_tokens) - 1) /
                           static_cast<uint64_t>(plan.page_tokens);
  uint64_t want_size = 0;
  if (__builtin_mul_overflow(n_pages, page, &want_size) ||
      __builtin_add_overflow(want_size, pages_at_ + sizeof hash_, &want_size) || want_size != size_) {
    return damaged(fmt::format("has {} bytes, {} tokens take {}", size_, tokens_.size(), want_size));
  }
  for (const int token : tokens_) {
    if (token < 0 || token >= model.hp.n_vocab) {
      return damaged(fmt::format("token {} is outside the vocabulary of {}", token, model.hp.n_vocab));
    }
  }
  return {};
}

base::Result<void> SequenceReader::read_pages(const SequencePages& to) {
  auto done = for_each_part(to, [&](int first, std::span<std::byte> bytes) -> base::Result<void> {
    auto got = read(bytes);
    return got ? to.copy(first, bytes) : got;
  });
  return done ? end() : done;
}

base::Result<void> SequenceReader::read(std::span<std::byte> bytes) {
  if (std::fread(bytes.data(), 1, bytes.size(), file_.get()) != bytes.size()) {
    return damaged("ends too early");
  }
  hash_ = base::fnv1a(bytes, hash_);
  return {};
}

base::Result<void> SequenceReader::end() {
  const uint64_t want = hash_;
  uint64_t hash = 0;
  if (auto got = read(std::as_writable_bytes(std::span(&hash, 1))); !got) {
    return got;
  }
  if (hash != want) {
    return damaged("its checksum is wrong: it is damaged");
  }
  if (std::fgetc(file_.get()) != EOF) {
    return damaged("goes on after its end");
  }
  return {};
}

}  // namespace engine
