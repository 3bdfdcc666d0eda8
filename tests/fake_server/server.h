#pragma once
// The pretended inference server: llama-server's routes over one Launch, which POST /reconfigure replaces.

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "tests/fake_server/http.h"
#include "tests/fake_server/launch.h"

namespace fake {

class Server {
 public:
  Server(Script script, std::shared_ptr<const Launch> launch)
      : script_(std::move(script)), launch_(std::move(launch)) {}

  // Serves until a signal ends it; the exit code where it does not come to that.
  int run();

 private:
  std::shared_ptr<const Launch> now();
  void load(const Launch& launch);
  void allocate(int mib);  // this much memory is really held from now on
  void handle(Connection& connection);
  void route(Connection& connection, const Launch& launch, const Request& request, const base::Json& body);
  void generate(Connection& connection, const Launch& launch, const base::Json& body, bool chat);
  void complete_text(Connection& connection, const Launch& launch, const base::Json& body);
  void reconfigure(Connection& connection, const base::Json& body);

  Script script_;
  std::mutex mutex_;  // of what follows
  std::condition_variable idle_;
  std::shared_ptr<const Launch> launch_;
  int running_ = 0;  // generations
  bool ready_ = false, reconfiguring_ = false;
  std::atomic<int> generations_{0};
  // Pages of the kernel's, not of the heap: what is given back is back at once, under a sanitizer too.
  struct Unmap {
    void operator()(char* pages) const;
  };
  std::vector<std::unique_ptr<char, Unmap>> memory_;
};

}  // namespace fake
