#include "src/study/journal.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>

#include "src/base/fnv.h"
#include "src/base/log.h"
#include "src/os/pipe.h"

namespace study {
namespace {

using Key = std::pair<std::string, int>;  // params_hash, attempt

Key key_of(const base::Json& record) {
  return {base::json_get<std::string>(record, "params_hash", ""), base::json_get<int>(record, "attempt", 0)};
}

std::string type_of(const base::Json& record) {
  return base::json_get<std::string>(record, "type", "");
}

// Holds the invariants while records come in; an Error message, or nothing.
class Checker {
 public:
  std::optional<std::string> header(const base::Json& record) {
    int version = base::json_get<int>(record, "schema_version", 0);
    if (version != kSchemaVersion) {
      return fmt::format("schema_version is {}, this autoresearch reads {}", version, kSchemaVersion);
    }
    if ((record.contains("space") || record.contains("space_hash")) &&
        content_hash(base::json_get<std::string>(record, "space", "")) !=
            base::json_get<std::string>(record, "space_hash", "")) {
      return "the space text is not the one that its space_hash was taken of";
    }
    return std::nullopt;
  }

  std::optional<std::string> next(const base::Json& record) {
    std::string type = type_of(record);
    if (type == "study") {
      return "a second study header";
    }
    if (type != "trial_start" && type != "trial_end") {
      return type.empty() ? std::optional<std::string>("a record without a type") : std::nullopt;
    }
    Key key = key_of(record);
    if (key.first.empty() || key.second < 1 || base::json_get<int>(record, "trial_id", -1) < 0) {
      return type + " without trial_id, params_hash or attempt";
    }
    auto params = record.find("params");
    if (params == record.end() || !params->is_object()) {
      return type + " without params";
    }
    if (params_hash(*params) != key.first) {
      return fmt::format("the params of trial {} are not those that its params_hash was taken of",
                         base::json_get<int>(record, "trial_id", 0));
    }
    if (type == "trial_start") {
      return starts_.insert(key).second ? std::nullopt : again(key, "starts");
    }
    if (!starts_.contains(key)) {
      return fmt::format("trial_end of {} attempt {} without its trial_start", key.first, key.second);
    }
    return ends_.insert(key).second ? std::nullopt : again(key, "ends");
  }

 private:
  static std::optional<std::string> again(const Key& key, const char* verb) {
    return fmt::format("{} attempt {} {} twice", key.first, key.second, verb);
  }
  std::set<Key> starts_, ends_;
};

// What a crash in the very first write leaves; anything else in the way is somebody's file.
bool only_a_torn_header(const std::string& path) {
  auto text = os::read_file(path);
  return text.ok() && text->starts_with("{\"type\":\"study\"") && text->find('\n') == std::string::npos &&
         !base::parse_json(*text, path).ok();
}

constexpr double kPipePatience_s = 10;  // without a byte

constexpr const char* kCorruptNext =
    "the journal is damaged or was changed by hand: put that line back as it was, or keep a copy and cut the "
    "file "
    "before that line to go on from there";
constexpr const char* kHeaderNext =
    "put the first line back as it was, read it with the autoresearch that wrote it, or start a new study";

}  // namespace

std::string content_hash(std::string_view bytes) {
  return fmt::format("{:016x}", base::fnv1a(bytes));
}

std::string params_hash(const base::Json& params) {
  nlohmann::json sorted = nlohmann::json::object();  // the unordered type of the library sorts its keys
  for (const auto& [key, value] : params.items()) {
    sorted[key] = nlohmann::json::parse(base::dump_line(value));
  }
  return content_hash(sorted.dump());
}

std::vector<const base::Json*> JournalContent::of_type(std::string_view type) const {
  std::vector<const base::Json*> found;
  for (const base::Json& record : records) {
    if (type_of(record) == type) {
      found.push_back(&record);
    }
  }
  return found;
}

std::vector<const base::Json*> JournalContent::interrupted() const {
  std::set<Key> ended;
  for (const base::Json* end : of_type("trial_end")) {
    ended.insert(key_of(*end));
  }
  std::vector<const base::Json*> open = of_type("trial_start");
  std::erase_if(open, [&](const base::Json* start) { return ended.contains(key_of(*start)); });
  return open;
}

int JournalContent::last_attempt(std::string_view params_hash) const {
  int last = 0;
  for (const base::Json* start : of_type("trial_start")) {
    auto [hash, attempt] = key_of(*start);
    if (hash == params_hash) {
      last = std::max(last, attempt);
    }
  }
  return last;
}

int JournalContent::last_trial_id() const {
  int last = 0;
  for (const base::Json& record : records) {
    last = std::max(last, base::json_get<int>(record, "trial_id", 0));
  }
  return last;
}

base::Result<JournalContent> read_journal(std::string_view text, const std::string& where) {
  JournalContent content;
  Checker checker;
  size_t at = 0;
  for (int line = 1; at < text.size(); ++line) {
    size_t newline = text.find('\n', at);
    bool last = newline == std::string_view::npos;
    std::string_view piece = text.substr(at, last ? std::string_view::npos : newline - at);
    std::string place = fmt::format("{}:{}", where, line);
    auto record = base::parse_json(piece, place);
    bool whole = record.ok() && record->is_object();
    if (last && !whole) {
      content.torn = true;
      break;
    }
    if (line == 1 && (!whole || type_of(*record) != "study")) {
      return base::error(place, "this is no journal of autoresearch", "name the file that run --out wrote");
    }
    if (!whole) {
      return base::error(place, record.ok() ? "not a JSON object" : record.failure().what, kCorruptNext);
    }
    auto problem = line == 1 ? checker.header(*record) : checker.next(*record);
    if (problem) {
      return base::error(place, *problem, line == 1 ? kHeaderNext : kCorruptNext);
    }
    if (line == 1) {
      content.header = std::move(*record);
    } else {
      content.records.push_back(std::move(*record));
    }
    at += piece.size() + (last ? 0 : 1);
    content.complete_bytes = at;
    content.missing_newline = last;
  }
  if (content.header.is_null()) {
    return base::error(where, "no study header",
                       "start the study again with: autoresearch run --space FILE --out FILE");
  }
  return content;
}

base::Result<JournalContent> load_journal(const std::string& path) {
  auto text = os::read_file_or_pipe(path, kPipePatience_s);
  if (!text) {
    return text.failure();
  }
  auto content = read_journal(*text, path);
  if (content && content->torn) {
    base::log_warn("{}: its last record was cut off and is left out ({} bytes)", path,
                   text->size() - content->complete_bytes);
  }
  return content;
}

base::Result<Journal> Journal::create(const std::string& path, const base::Json& header, bool* locked) {
  auto file = os::AppendFile::open(path, locked);
  if (!file) {
    return file.failure();
  }
  if (file->size() > 0 && only_a_torn_header(path)) {
    if (auto cut = file->truncate(0); !cut) {
      return cut.failure();
    }
  }
  if (file->size() > 0) {
    return base::error(
        path, "already holds a journal",
        fmt::format("continue it with: autoresearch resume {}, or choose another --out", path));
  }
  Journal journal(std::move(*file));
  auto written = journal.append(header);
  if (!written) {
    return written.failure();
  }
  return journal;
}

base::Result<std::pair<Journal, JournalContent>> Journal::open(const std::string& path) {
  if (!os::file_exists(path)) {
    return base::error(path, "no such journal", "start one with: autoresearch run --space FILE --out FILE");
  }
  auto file = os::AppendFile::open(path);
  if (!file) {
    return file.failure();
  }
  auto text = os::read_file(path);
  if (!text) {
    return text.failure();
  }
  auto content = read_journal(*text, path);
  if (!content) {
    return content.failure();
  }
  if (content->torn) {
    base::log_warn("{}: the last record was cut off by a crash; {} bytes removed", path,
                   file->size() - content->complete_bytes);
    if (auto cut = file->truncate(content->complete_bytes); !cut) {
      return cut.failure();
    }
  }
  if (content->missing_newline) {
    if (auto mended = file->append("\n"); !mended) {
      return mended.failure();
    }
    ++content->complete_bytes;
    content->missing_newline = false;
  }
  return std::pair<Journal, JournalContent>(Journal(std::move(*file)), std::move(*content));
}

base::Result<void> Journal::append(const base::Json& record) {
  return file_.append(base::dump_line(record) + "\n");
}

}  // namespace study
