#pragma once
// A descriptor that is closed with its owner.

#include <unistd.h>

namespace os {

struct Fd {
  int fd = -1;
  ~Fd() {
    if (fd >= 0) {
      ::close(fd);
    }
  }
};

}  // namespace os
