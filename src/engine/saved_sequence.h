#pragma once
// A sequence in a file, so that a prompt need not be read again: the cache it fits, its tokens, the pages of its rows.
//
// "TBQSEQ01", the header's length (u64), the header (JSON), the tokens (i32 each), for each page and layer the page as
// kernels/formats/formats.h lays it out (all heads' K, then all heads' V; slots without a row hold rows of zeros), and
// the FNV-1a of all that (u64). Little endian.

#include <cstddef>
#include <cstdio>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/error.h"
#include "src/base/json.h"
#include "src/engine/backend.h"

namespace engine {

// What a file and a cache must have in common, and how many tokens there are: the file's header.
std::string sequence_header(const Model& model, const KvPlan& plan, size_t n_tokens);

// How a sequence's pages come to a file and from one: n of them, of page_bytes each (all layers), which `copy` moves
// between the cache and `bytes`, whole pages from `first` on. The file's side of it needs no cache and no thread.
struct SequencePages {
  int n = 0;
  size_t page_bytes = 0;
  std::function<base::Result<void>(int first, std::span<std::byte> bytes)> copy;
};

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using FileHandle = std::unique_ptr<std::FILE, CloseFile>;

// Writes such a file, whole or not at all: under another name until commit().
class SequenceWriter {
 public:
  // Readable by its owner alone: prompts are in it.
  static base::Result<SequenceWriter> create(const std::string& path, std::string_view header,
                                             std::span<const int> tokens);
  // Some MB at a time.
  base::Result<void> write_pages(const SequencePages& from);
  base::Result<void> write(std::span<const std::byte> bytes);
  // The file's size.
  base::Result<uint64_t> commit();
  SequenceWriter(SequenceWriter&& other) noexcept = default;
  SequenceWriter& operator=(SequenceWriter&& other) = delete;
  ~SequenceWriter();

 private:
  SequenceWriter(std::string path, std::string part, FileHandle file);
  base::Error failed(int errno_value) const;

  std::string path_, part_;
  FileHandle file_;
  uint64_t hash_, bytes_ = 0;
};

// Reads one: everything is checked, the checksum last.
class SequenceReader {
 public:
  // Errors: no such file, not one of these, damaged. Nothing of the pages is read yet.
  static base::Result<SequenceReader> open(const std::string& path);

  const std::vector<int>& tokens() const { return tokens_; }
  // An Error that tells what differs where the file does not fit the cache, or has another length than it must have.
  base::Result<void> check(const Model& model, const KvPlan& plan) const;
  // All pages, some MB at a time, and then whether they were as they had been written.
  base::Result<void> read_pages(const SequencePages& to);
  uint64_t size() const { return size_; }

 private:
  SequenceReader(std::string path, FileHandle file, uint64_t size);
  base::Result<void> read_header();
  base::Result<void> read(std::span<std::byte> bytes);
  base::Result<void> end();
  base::Error damaged(const std::string& what) const;

  std::string path_;
  FileHandle file_;
  uint64_t size_, hash_, pages_at_ = 0;
  base::Json header_;
  std::vector<int> tokens_;
};

}  // namespace engine
