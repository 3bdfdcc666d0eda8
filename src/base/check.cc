#include "src/base/check.h"

#include <cstdio>
#include <cstdlib>

namespace base {

void check_failed(const char* file, int line, const char* condition, const char* what) {
  std::fprintf(stderr, "%s:%d: bug in autoresearch: %s (%s is false); please report this\n", file, line, what,
               condition);
  std::abort();
}

}  // namespace base
