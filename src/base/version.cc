#include "src/base/version.h"

#include <commit.h>  // made by the build

namespace base {

std::string_view version() {
  return AR_VERSION;
}

std::string_view commit() {
  return AR_COMMIT;
}

}  // namespace base
