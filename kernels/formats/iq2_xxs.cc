#include "kernels/formats/iq2_xxs.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/formats/iq2_xxs.cc"
#define KERNELS_FORMAT iq2_xxs
#include "kernels/each_target.h"
#include "kernels/formats/weight_parts-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kernels::iq2_xxs::HWY_NAMESPACE {
namespace {

using Loader = kernels::HWY_NAMESPACE::PartLoader<Layout, kernels::HWY_NAMESPACE::PointCodes<Layout>>;

}  // namespace
}  // namespace kernels::iq2_xxs::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#include "kernels/formats/parts_dispatch-inl.h"
