#include "kernels/formats/q6_k.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/formats/q6_k.cc"
#define KERNELS_FORMAT q6_k
#include "kernels/each_target.h"
#include "kernels/formats/weight_parts-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kernels::q6_k::HWY_NAMESPACE {
namespace {

using namespace kernels::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace)

#if HWY_TARGET == HWY_SCALAR
using Codes = PlainCodes<Layout>;
#else
struct Codes {
  static HWY_INLINE Bytes32 at(const uint8_t* block, int part) {
    const uint8_t* low = Layout::low_at(block, part);
    const uint8_t* top = Layout::top_at(block, part);
    return {half(low, top, part), half(low + 16, top + 16, part)};
  }
  static HWY_INLINE Bytes16 half(const uint8_t* low, const uint8_t* top, int part) {
    const Bits16 upper = raised<4>(field(bits_at(top), part % 4 * 2, 3));
    return minus(hn::Or(field(bits_at(low), Layout::low_shift(part), 15), upper), 32);
  }
};
#endif
using Loader = PartLoader<Layout, Codes>;

}  // namespace
}  // namespace kernels::q6_k::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#include "kernels/formats/parts_dispatch-inl.h"
