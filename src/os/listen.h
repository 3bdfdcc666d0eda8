#pragma once
// A listening TCP socket as a server of ours wants it.

#include <string>

#include "src/base/error.h"

namespace os {

struct Listener {
  int fd = -1;  // the caller's to close; CLOEXEC, non-blocking
  int port = 0;
};

// Binds host:port (port 0: any free one) with SO_REUSEADDR alone, since SO_REUSEPORT would let a second
// server share the port in silence. Errors are worded as llama-server's.
base::Result<Listener> listen_tcp(const std::string& host, int port, int backlog);

}  // namespace os
