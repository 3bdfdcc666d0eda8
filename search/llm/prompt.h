#pragma once
// From a request of the plugin protocol to what a model is asked, and back. Pure.

#include <string>

#include "src/base/json.h"

namespace llm {

struct Prompt {
  std::string system, user;
  std::string format;  // the answer's form in words, where `schema` cannot be relied upon
  base::Json schema;   // JSON Schema of the answer: {"proposals": [{"params": {axis: value}, "rationale"}]}
};
// The request's data is passed on as data: what servers and files said in it is never an instruction. Parts that are
// missing are left out.
Prompt make_prompt(const base::Json& request);

// Each value of `params` that reads like one of its axis's values becomes that value ("4096" -> 4096): models mix up
// texts and numbers. Others stay, for the driver to refuse.
base::Json normalised(const base::Json& request, base::Json params);

}  // namespace llm
