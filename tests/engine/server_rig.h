#pragma once
// A Server in this process, on a free port, with the demo model.

#include <doctest/doctest.h>

#include <atomic>
#include <functional>
#include <string>

#include "src/base/json.h"
#include "src/engine/server.h"
#include "src/os/http_client.h"
#include "tests/engine/vocab_fixture.h"

namespace fixtures {

inline std::string demo_model() {
  return AR_SOURCE_DIR "/models/demo-q8_0.gguf";
}

struct HttpRig {
  using Change = std::function<void(engine::ServerOptions& options)>;

  // n_ctx 1024, f16, one thread; `change` may set others.
  explicit HttpRig(const Change& change = {}) : server(chosen(change)) {
    server.on_lost([this](std::string_view) { lost = true; });
    auto bound = server.bind();
    REQUIRE_MESSAGE(bound.ok(), (bound.ok() ? "" : bound.failure().to_string()));
    REQUIRE(server.load().ok());
  }
  ~HttpRig() { CHECK(server.stop()); }
  HttpRig(const HttpRig&) = delete;
  HttpRig& operator=(const HttpRig&) = delete;

  os::HttpResponse send(const std::string& method, const std::string& path, const std::string& body) const {
    os::HttpRequest request;
    request.method = method;
    request.url = server.url() + path;
    request.body = body;
    request.timeout_s = test::time_limit(request.timeout_s);
    auto response = os::http(request);
    REQUIRE_MESSAGE(response.ok(), (response.ok() ? "" : response.failure().to_string()));
    return *response;
  }
  os::HttpResponse post(const std::string& path, const std::string& body) const {
    return send("POST", path, body);
  }
  os::HttpResponse get(const std::string& path) const { return send("GET", path, ""); }
  // A 200 answer's JSON.
  base::Json json(const std::string& path, const std::string& body) const {
    const os::HttpResponse response = post(path, body);
    REQUIRE_MESSAGE(response.status == 200, response.body);
    return base::Json::parse(response.body);
  }
  os::HttpResponse change(const std::string& body) const { return post("/reconfigure", body); }
  base::Json props() const { return base::Json::parse(get("/props").body)["tbq"]; }

  static engine::ServerOptions chosen(const Change& change) {
    engine::ServerOptions o;
    o.model = demo_model();
    o.port = 0;
    o.context.n_ctx = 1024;
    o.context.n_ubatch = 64;
    o.context.n_threads = 1;
    if (change) {
      change(o);
    }
    return o;
  }
  engine::Server server;
  std::atomic<bool> lost = false;
};

}  // namespace fixtures
