#pragma once
// tbq-server without its main: routes over a model that is still loading, ready, or going away. The port
// answers from the first moment (503 "Loading model"), as llama-server's does.

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "src/base/error.h"
#include "src/engine/chat_template.h"
#include "src/engine/generation.h"
#include "src/engine/server_options.h"
#include "src/engine/tokenizer.h"
#include "src/os/http_server.h"

namespace engine {

// What exists once the model is loaded; immutable but for the generator, which has its own lock.
struct Loaded {
  std::shared_ptr<const Model> model;
  Tokenizer tokenizer;
  ChatTemplate chat;

  ChatTemplate::Bos bos() const;
  std::unique_ptr<Generator> generator;  // last: ends before what it uses
};

// What /reconfigure changes.
struct Tuning {
  std::mutex mutex;  // over the rest, and over the change itself: one at a time
  ServerOptions options;
  std::function<void(std::string_view why)> lost;  // nothing is left to serve with
  // As asked: there is one attention, and off only means that V may not be quantized. Read without the mutex.
  std::atomic<bool> flash_attn{true};
};

// HTTP threads of a server started with these options: a client of every slot holds one.
inline int http_threads(const ServerOptions& options) {
  return std::max(options.threads_http, options.parallel + 4);
}

class Server {
 public:
  explicit Server(ServerOptions options);
  // Called once, from a handler's thread, when a reconfiguration has left nothing to serve with: the process
  // should end. Set before bind().
  void on_lost(std::function<void(std::string_view why)> lost) { tuning_.lost = std::move(lost); }

  // Binds the port; from then on every request is answered 503 until load() is done.
  base::Result<void> bind();
  int port() const { return http_->port(); }
  std::string url() const { return http_->url(); }
  // Loads the model, opens the context, warms up. Blocks; called once, on any thread.
  base::Result<void> load();
  // Fails running and waiting requests and closes every connection. False: a computation was still running
  // after about half a second, and this object must not be destroyed.
  bool stop();

  // The HTTP handler.
  void handle(const os::HttpIncoming& request, os::HttpReply& reply);

 private:
  ServerOptions options_;
  int64_t created_;
  Tuning tuning_;
  std::unique_ptr<os::HttpServer> http_;
  std::mutex mutex_;  // over loaded_ and stopping_ while they change
  bool stopping_ = false;
  std::unique_ptr<Loaded> loaded_;
  std::atomic<const Loaded*> ready_{nullptr};
};

}  // namespace engine
