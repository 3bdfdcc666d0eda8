#pragma once
// The journal of a study: one JSON object per line, append-only, synced at every record. Schema: JOURNAL.md.
//
// Invariants, checked when it is read: the first record is the `study` header, and its space_hash that of its space; every trial_end has its
// trial_start; no (params_hash, attempt) has two starts or two ends. A start without an end is a trial that
// was interrupted: nothing is written for it, it runs again as the next attempt.

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/base/error.h"
#include "src/base/json.h"
#include "src/os/files.h"

namespace study {

inline constexpr int kSchemaVersion = 1;

// FNV-1a 64 of the parameters' canonical JSON (keys sorted), 16 hex digits. Stable for ever: journals of
// different runs are joined by it.
std::string params_hash(const base::Json& params);
// The same hash of any bytes, for files (prompt suites, the space file).
std::string content_hash(std::string_view bytes);

struct JournalContent {
  base::Json header;                // the `study` record
  std::vector<base::Json> records;  // every record after it, in order
  uint64_t complete_bytes = 0;      // up to the end of the last whole record
  bool torn = false;                // bytes after that belong to a record cut off by a crash
  bool missing_newline = false;     // the last record is whole but for its newline

  // Records of one type, in order.
  std::vector<const base::Json*> of_type(std::string_view type) const;
  // Starts without an end.
  std::vector<const base::Json*> interrupted() const;
  // Highest attempt started for these parameters; 0 when none.
  int last_attempt(std::string_view params_hash) const;
  int last_trial_id() const;
};

// Pure. Errors name the line ("runs/x.jsonl:17") and what is broken.
base::Result<JournalContent> read_journal(std::string_view text, const std::string& where);
base::Result<JournalContent> load_journal(const std::string& path);

class Journal {
 public:
  // A new file (missing or empty) and its header, synced. The Error says to resume when it already has
  // records; `*locked` (may be null) whether another process holds it.
  static base::Result<Journal> create(const std::string& path, const base::Json& header,
                                      bool* locked = nullptr);
  // Locks first, then reads; cuts a torn last record off with a warning.
  static base::Result<std::pair<Journal, JournalContent>> open(const std::string& path);

  // One record: on disk when this returns. On an Error (disk full) the file is as it was.
  base::Result<void> append(const base::Json& record);
  const std::string& path() const { return file_.path(); }

 private:
  explicit Journal(os::AppendFile file) : file_(std::move(file)) {}
  os::AppendFile file_;
};

}  // namespace study
