// Requests that nobody means well: an error in JSON for each, and the server goes on.

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "tests/engine/server_rig.h"

namespace {

std::string repeated(std::string_view unit, int n) {
  std::string out;
  for (int i = 0; i < n; ++i) {
    out += unit;
  }
  return out;
}

// A client that says so much and is gone.
void say_and_leave(int port, std::string_view bytes) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  REQUIRE(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  (void)::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
  ::close(fd);
}

}  // namespace

TEST_CASE("bodies that cannot be: an error object each, the server goes on") {
  const fixtures::HttpRig rig;
  const std::string deep = repeated("[", 200000), wide = [] {
    std::string text = "{\"prompt\": \"a\"";
    for (int i = 0; i < 200000; ++i) {  // looked through one by one these would take minutes
      text += fmt::format(",\"{}\":0", i);
    }
    return text + "}";
  }();
  const std::string many = "{\"prompt\": [" + repeated("[1],", 300000) + "[1]]}";
  const std::string stops = "{\"prompt\": \"a\", \"stop\": [" + repeated("\"xy\",", 100000) + "\"z\"]}";
  const std::string biases = "{\"prompt\": \"a\", \"logit_bias\": [" + repeated("[5,1],", 100000) + "[5,1]]}";
  for (const std::string& body : {std::string("{\"prompt\": \"\xff\xfe\"}"),
                                  std::string("{\"prompt\": \"\xc3(\"}"),
                                  std::string(R"({"prompt": "\ud800"})"),
                                  std::string("{\"prompt\": \"a"),
                                  std::string("\xff"),
                                  std::string(),
                                  std::string("null"),
                                  std::string("[]"),
                                  std::string("{} {}"),
                                  std::string("{\"prompt\": {\"a\": [1e999]}}"),
                                  std::string("{\"prompt\":") + deep,
                                  deep,
                                  wide,
                                  many,
                                  stops,
                                  biases,
                                  std::string("\0{}", 3),
                                  std::string(R"({"prompt": [18446744073709551615]})"),
                                  std::string(R"({"prompt": [-1e300]})"),
                                  std::string(R"({"prompt": [[[[1]]]]})"),
                                  std::string(R"({"prompt": "a", "stop": 5})"),
                                  std::string(R"({"prompt": "a", "temperature": "hot"})")}) {
    CAPTURE(body.substr(0, 60));
    const os::HttpResponse answer = rig.post("/completion", body);
    CHECK(answer.status >= 400);
    CHECK(answer.status < 600);
    const auto error = base::parse_json(answer.body, "answer");
    REQUIRE_MESSAGE(error.ok(), answer.body);
    CHECK((*error)["error"]["message"].is_string());
  }
  CHECK(rig.json("/completion", R"({"prompt": "ab", "n_predict": 2})")["tokens_predicted"] == 2);
}

TEST_CASE("JSON beyond the limits is a bad request, broken JSON is what llama-server makes of it") {
  const fixtures::HttpRig rig;
  const std::string keys = [] {
    std::string text = "{\"prompt\": \"a\"";
    for (int i = 0; i < 5000; ++i) {
      text += fmt::format(",\"{}\":0", i);
    }
    return text + "}";
  }();
  const struct {
    std::string body, why;
    int status;
    const char* type;
  } rows[] = {{"{\"prompt\":" + repeated("[", 200) + repeated("]", 200) + "}", "deeper than 128 levels", 400,
               "invalid_request_error"},
              {keys, "more than 4096 keys", 400, "invalid_request_error"},
              {"{\"prompt\": [" + repeated("5,", 1'200'000) + "5]}", "more than 1100000 values", 400,
               "invalid_request_error"},
              {"{\"prompt\": ", "parse error at line 1", 500, "server_error"},
              {"{\"prompt\": " + repeated("[", 20), "parse error at line 1", 500, "server_error"}};
  for (const char* path : {"/completion", "/v1/chat/completions", "/tokenize"}) {
    for (const auto& row : rows) {
      CAPTURE(path);
      CAPTURE(row.why);
      const os::HttpResponse answer = rig.post(path, row.body);
      CHECK(answer.status == row.status);
      const base::Json error = base::Json::parse(answer.body)["error"];
      CHECK(error["code"] == row.status);
      CHECK(error["type"] == row.type);
      CHECK(error["message"].get<std::string>().find(row.why) != std::string::npos);
    }
  }
}

TEST_CASE("every route takes any JSON: answered or refused, never more") {
  const fixtures::HttpRig rig;
  for (const char* path : {"/completion", "/v1/completions", "/v1/chat/completions", "/tokenize",
                           "/detokenize", "/apply-template", "/reconfigure"}) {
    for (
        const char* body :
        {"{}", "[]", "7", R"({"content": "\u0000\uffff", "with_pieces": true})",
         R"({"content": 5, "tokens": "x"})", R"({"tokens": [1, -1]})", R"({"tokens": [1e300]})",
         R"({"messages": [{}]})", R"({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})",
         R"({"messages": [{"role": "\u0000", "content": "\u0000"}], "max_tokens": 1, "prompt": "", "n_predict": 0})",
         R"({"reasoning_budget_tokens": 1e300, "messages": [], "prompt": {}, "ctx_size": -1e300})"}) {
      CAPTURE(path);
      CAPTURE(body);
      const os::HttpResponse answer = rig.post(path, body);
      CHECK(base::parse_json(answer.body, "answer").ok());
    }
  }
  CHECK(rig.get("/health").status == 200);
}

TEST_CASE("a body beyond the limit is refused unread, and what would take gigabytes to say") {
  const fixtures::HttpRig rig;
  const os::HttpResponse large =
      rig.post("/tokenize", "{\"content\": \"" + std::string(17 << 20, 'a') + "\"}");
  CHECK(large.status == 413);
  CHECK(large.body ==
        R"({"error":{"message":"the request body is too large","type":"invalid_request_error","code":413}})");
  const std::string text =
      "{\"with_pieces\": true, \"content\": \"" + repeated("\\u0001", (1 << 20) + 1) + "\"}";
  const os::HttpResponse pieces = rig.post("/tokenize", text);
  CHECK(pieces.status == 400);
  CHECK(pieces.body.find("send the text in parts") != std::string::npos);
  CHECK(rig.post("/detokenize", "{\"tokens\": [" + repeated("5,", 1 << 20) + "5]}").status == 400);
}

TEST_CASE("clients that vanish at any point leave nothing behind") {
  const fixtures::HttpRig rig;
  const std::string body = R"({"prompt": "ab", "n_predict": 900, "stream": true, "ignore_eos": true})";
  const std::string head =
      fmt::format("POST /completion HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.size());
  for (const size_t said :
       {size_t{0}, size_t{10}, head.size() - 2, head.size(), head.size() + 9, head.size() + body.size()}) {
    for (int i = 0; i < 5; ++i) {
      say_and_leave(rig.server.port(), (head + body).substr(0, said));
    }
  }
  // A request of our own comes after theirs and is answered; none of theirs computes for nobody.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  CHECK(rig.json("/completion", R"({"prompt": "ab", "n_predict": 2})")["tokens_predicted"] == 2);
  CHECK(std::chrono::steady_clock::now() < deadline);
}
