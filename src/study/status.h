#pragma once
// How a trial ended. A failure carries a reason and no numbers; only kOk has measurements.

#include <optional>
#include <string>
#include <string_view>

namespace study {

enum class Status {
  kOk,
  kOom,               // out of memory: the server said so, the kernel or our memory guard killed it
  kLoadTimeout,       // not ready before backend.load_timeout
  kLoadCrash,         // exited before it was ready
  kRunCrash,          // exited, or answered with errors, while it was measured
  kHang,              // alive, but nothing answers any more
  kTimeout,           // a request took longer than its limit while the server still answers /health
  kImplausible,       // numbers that cannot be true
  kConfigMismatch,    // runs with something else than was asked, or is not the model we asked for
  kQualityFail,       // stopped early: the answers are broken
  kPruned,            // stopped early: it can no longer win
  kSkippedPredicted,  // never launched: a smaller configuration ran out of memory
  kDuplicate,         // never launched: already measured
  kInterrupted,       // started, never ended: run again
  kHostCrash,         // the machine went down while it ran: not run again
};

std::string_view to_string(Status status);                  // "load_crash": the journal's spelling
std::optional<Status> parse_status(std::string_view name);  // nullopt: unknown

// True where a larger configuration must fail too (a host crash counts: a unified-memory box wedges).
bool means_out_of_memory(Status status);

// What may not happen again: a crash, a time-out, a disturbed measurement.
bool may_pass(Status status);

// One failed step of a trial.
struct Failure {
  Status status = Status::kRunCrash;
  std::string reason;  // one sentence for the person who reads the report
};

}  // namespace study
