#include "search/axis_facts.h"

#include <iterator>

#include "src/base/kv_types.h"

namespace search {
namespace {

// kUnordered: which value takes more depends on other axes.
enum class Memory { kNone, kGrowsWithNumber, kGrowsFromZero, kGrowsWithKvBits, kUnordered };

struct AxisFact {
  std::string_view name;
  Memory memory;
  std::string_view partner = {};
};

// In order of importance for speed, memory and quality of a served model: the KV cache decides what fits,
// batch sizes decide compute buffers and prefill, threads decide CPU decode.
constexpr AxisFact kFacts[] = {
    {"cache_type_k", Memory::kGrowsWithKvBits, "cache_type_v"},
    {"cache_type_v", Memory::kGrowsWithKvBits, "cache_type_k"},
    {"ctx_size", Memory::kGrowsWithNumber},
    {"n_ubatch", Memory::kGrowsWithNumber},
    {"n_threads", Memory::kNone},
    {"activations", Memory::kNone},
    {"kv_center", Memory::kNone},
    {"kv_first_last", Memory::kUnordered},
    {"kv_rotate", Memory::kNone},
    {"kv_tail", Memory::kGrowsFromZero},
    {"kv_sink", Memory::kGrowsFromZero},
    {"flash_attn", Memory::kNone},
    {"n_batch", Memory::kGrowsWithNumber},
    {"n_draft", Memory::kNone},
    {"parallel", Memory::kGrowsWithNumber},
};

const AxisFact* find_fact(std::string_view name) {
  for (const AxisFact& fact : kFacts) {
    if (fact.name == name) {
      return &fact;
    }
  }
  return nullptr;
}

}  // namespace

int importance_rank(std::string_view axis_name) {
  const AxisFact* fact = find_fact(axis_name);
  return static_cast<int>(fact != nullptr ? fact - std::begin(kFacts) : std::ssize(kFacts));
}

bool takes_memory(std::string_view axis_name) {
  const AxisFact* fact = find_fact(axis_name);
  return fact != nullptr && fact->memory != Memory::kNone;
}

std::optional<double> memory_demand(std::string_view axis_name, const Value& value) {
  const AxisFact* fact = find_fact(axis_name);
  if (fact == nullptr || fact->memory == Memory::kNone || fact->memory == Memory::kUnordered) {
    return std::nullopt;
  }
  if (fact->memory == Memory::kGrowsWithKvBits) {
    const auto* type = std::get_if<std::string>(&value);
    const double bits = type == nullptr ? 0 : base::kv_bits_per_value(*type);
    return bits > 0 ? std::optional(bits) : std::nullopt;
  }
  if (const auto* whole = std::get_if<int64_t>(&value)) {
    if (*whole == 0 && fact->memory == Memory::kGrowsFromZero) {
      return 0;
    }
    // 0 asks the server for its own choice (ctx_size: the model's whole context): not a small number.
    return *whole > 0 ? std::optional<double>(static_cast<double>(*whole)) : std::nullopt;
  }
  const auto* real = std::get_if<double>(&value);
  return real != nullptr && *real > 0 ? std::optional<double>(*real) : std::nullopt;
}

std::string_view partner_of(std::string_view axis_name) {
  const AxisFact* fact = find_fact(axis_name);
  return fact != nullptr ? fact->partner : "";
}

bool needs_at_least(const Space& space, const Config& config, const Config& smaller) {
  // Sinks and tails are kept beside quantized types alone: with them a smaller type may take more than a larger one.
  bool copies = false;
  for (size_t i = 0; i < space.axes.size(); ++i) {
    const AxisFact* fact = find_fact(space.axes[i].name);
    if (fact != nullptr && fact->memory == Memory::kGrowsFromZero) {
      copies = copies || memory_demand(space.axes[i].name, config[i]) != 0.0 ||
               memory_demand(space.axes[i].name, smaller[i]) != 0.0;
    }
  }
  for (size_t i = 0; i < space.axes.size(); ++i) {
    if (equal(config[i], smaller[i])) {
      continue;
    }
    const AxisFact* fact = find_fact(space.axes[i].name);
    if (copies && fact != nullptr && fact->memory == Memory::kGrowsWithKvBits) {
      return false;
    }
    auto mine = memory_demand(space.axes[i].name, config[i]);
    auto theirs = memory_demand(space.axes[i].name, smaller[i]);
    if (!mine || !theirs || *mine < *theirs) {
      return false;
    }
  }
  return true;
}

}  // namespace search
