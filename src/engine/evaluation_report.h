#pragma once
// An evaluation as a table, as JSON (EVALUATION.md) and as a line of progress. Pure, but for writing the file.

#include <cstdint>
#include <string>

#include "src/base/error.h"
#include "src/base/loss_comparison.h"
#include "src/engine/evaluation_run.h"

namespace engine {

// What was evaluated, and where.
struct EvaluationSubject {
  std::string model_path, architecture, corpus_path;
  uint64_t model_fingerprint = 0, model_bytes = 0, bytes_per_token = 0, corpus_hash = 0, corpus_bytes = 0,
           corpus_tokens = 0;
  std::string hostname, cpu_model;
  bool synthetic = false;  // random weights and tokens: of the losses nothing is to be believed
};

// What is made of it. The losses are judged by `judge`.
std::string evaluation_table(const Evaluation& evaluation, const EvaluationSubject& subject,
                             const base::LossOptions& judge);
// One object, indented, with a newline.
std::string evaluation_json(const Evaluation& evaluation, const EvaluationSubject& subject,
                            const base::LossOptions& judge);
// "chunk 3/20: f16/f16 4.0251, q4_0/q4_0 +0.87%"; elapsed_s gives what is left, too.
std::string progress_line(const Evaluation& evaluation, double elapsed_s);

// Replaces the file, if there is one, in one go; what is no file (a pipe, a device) is written to.
base::Result<void> write_report(const std::string& path, const std::string& text);

}  // namespace engine
