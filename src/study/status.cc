#include "src/study/status.h"

#include <array>
#include <utility>

namespace study {
namespace {

constexpr std::array<std::pair<Status, std::string_view>, 15> kNames = {{
    {Status::kOk, "ok"},
    {Status::kOom, "oom"},
    {Status::kLoadTimeout, "load_timeout"},
    {Status::kLoadCrash, "load_crash"},
    {Status::kRunCrash, "run_crash"},
    {Status::kHang, "hang"},
    {Status::kTimeout, "timeout"},
    {Status::kImplausible, "implausible"},
    {Status::kConfigMismatch, "config_mismatch"},
    {Status::kQualityFail, "quality_fail"},
    {Status::kPruned, "pruned"},
    {Status::kSkippedPredicted, "skipped_predicted"},
    {Status::kDuplicate, "duplicate"},
    {Status::kInterrupted, "interrupted"},
    {Status::kHostCrash, "host_crash"},
}};

}  // namespace

std::string_view to_string(Status status) {
  for (const auto& [value, name] : kNames) {
    if (value == status) {
      return name;
    }
  }
  return "unknown";
}

std::optional<Status> parse_status(std::string_view name) {
  for (const auto& [value, spelling] : kNames) {
    if (spelling == name) {
      return value;
    }
  }
  return std::nullopt;
}

bool means_out_of_memory(Status status) {
  return status == Status::kOom || status == Status::kHostCrash || status == Status::kSkippedPredicted;
}

bool may_pass(Status status) {
  switch (status) {
    case Status::kLoadTimeout:
    case Status::kLoadCrash:
    case Status::kRunCrash:
    case Status::kHang:
    case Status::kTimeout:
    case Status::kImplausible:
      return true;
    default:
      return false;
  }
}

}  // namespace study
