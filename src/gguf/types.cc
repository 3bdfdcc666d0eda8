#include <algorithm>
#include <array>

#include "src/gguf/gguf.h"

namespace gguf {
namespace {

struct TypeRow {
  uint32_t id;
  TypeSize size;
};

// Ids as in ggml's enum; gaps are types ggml has withdrawn.
constexpr std::array kTypes = {
    TypeRow{0, {"f32", 1, 4}},         TypeRow{1, {"f16", 1, 2}},         TypeRow{2, {"q4_0", 32, 18}},
    TypeRow{3, {"q4_1", 32, 20}},      TypeRow{6, {"q5_0", 32, 22}},      TypeRow{7, {"q5_1", 32, 24}},
    TypeRow{8, {"q8_0", 32, 34}},      TypeRow{9, {"q8_1", 32, 36}},      TypeRow{10, {"q2_k", 256, 84}},
    TypeRow{11, {"q3_k", 256, 110}},   TypeRow{12, {"q4_k", 256, 144}},   TypeRow{13, {"q5_k", 256, 176}},
    TypeRow{14, {"q6_k", 256, 210}},   TypeRow{15, {"q8_k", 256, 292}},   TypeRow{16, {"iq2_xxs", 256, 66}},
    TypeRow{17, {"iq2_xs", 256, 74}},  TypeRow{18, {"iq3_xxs", 256, 98}}, TypeRow{19, {"iq1_s", 256, 50}},
    TypeRow{20, {"iq4_nl", 32, 18}},   TypeRow{21, {"iq3_s", 256, 110}},  TypeRow{22, {"iq2_s", 256, 82}},
    TypeRow{23, {"iq4_xs", 256, 136}}, TypeRow{24, {"i8", 1, 1}},         TypeRow{25, {"i16", 1, 2}},
    TypeRow{26, {"i32", 1, 4}},        TypeRow{27, {"i64", 1, 8}},        TypeRow{28, {"f64", 1, 8}},
    TypeRow{29, {"iq1_m", 256, 56}},   TypeRow{30, {"bf16", 1, 2}},       TypeRow{34, {"tq1_0", 256, 54}},
    TypeRow{35, {"tq2_0", 256, 66}},   TypeRow{39, {"mxfp4", 32, 17}},
};

}  // namespace

std::optional<TypeSize> type_size(uint32_t ggml_type) {
  const auto* found = std::ranges::find(kTypes, ggml_type, &TypeRow::id);
  if (found == kTypes.end()) {
    return std::nullopt;
  }
  return found->size;
}

}  // namespace gguf
