#pragma once
// A request (Task) and the sequence that works on it (Slot): prompt, tokens, guesses and their verification,
// stop rules, timings. A Slot is the engine thread's own; a Task is what client and engine threads share.

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "src/engine/context.h"
#include "src/engine/generation_types.h"
#include "src/engine/ngram_draft.h"
#include "src/engine/reasoning_budget.h"
#include "src/engine/saved_sequence.h"
#include "src/engine/schedule.h"
#include "src/engine/serving_board.h"
#include "src/engine/text_output.h"
#include "src/engine/tokenizer.h"

namespace engine {

// What a task that the server will not finish is told, with status 503.
inline constexpr const char* kStopMessage = "the server is shutting down";

// One client's request, shared by its thread and the engine thread.
class Task {
 public:
  Task(std::vector<int> prompt, GenerationParams params)
      : prompt_(std::move(prompt)),
        shared_params_(std::make_shared<const GenerationParams>(std::move(params))),
        params_(*shared_params_) {}

  // The next event; nullopt when none came in time. Nothing follows kDone or kFailed.
  std::optional<GenerationEvent> wait(std::chrono::milliseconds timeout);
  // The engine gives the task up after the ubatch that is running.
  void cancel() { cancelled_ = true; }

 private:
  friend class Generator;
  friend class Slot;
  void put(GenerationEvent event);
  void fail(int status, std::string message);

  const std::vector<int> prompt_;
  const std::shared_ptr<const GenerationParams> shared_params_;  // the board shows them too
  const GenerationParams& params_;
  std::atomic<bool> cancelled_{false};
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<GenerationEvent> events_;

  // The engine thread's, for a task that had to give its slot back.
  int64_t id_ = -1;   // as at its first start; -1: it has had none
  int n_others_ = 0;  // it starts again once fewer slots than that are busy; 0: it has given nothing back
};

// One sequence of the context and the task on it. The engine thread's own.
class Slot {
 public:
  Slot(Context& context, const SpeculationOptions& speculation, const Tokenizer& tokenizer,
       ServingBoard& board, int seq)
      : context_(context), tokenizer_(tokenizer), board_(board), seq_(seq) {
    if (speculation.ngram) {
      drafts_.emplace(speculation);
    }
  }

  int seq() const { return seq_; }
  bool busy() const { return task_ != nullptr; }
  // The client has gone.
  bool cancelled() const { return task_ && task_->cancelled_; }
  int64_t id_task() const { return id_task_; }
  int64_t last_used() const { return last_used_; }
  int rows() const { return static_cast<int>(cached_.size()); }
  // Tokens of the task's prompt whose rows are here; 0 where it does not want any reused. The last is never
  // among them: its logits are needed.
  int common_prefix(const Task& task) const;

  // `donor`, if any, has a longer common prefix: the first n_shared rows of that are shared.
  void start(std::shared_ptr<Task> task, const Slot* donor, int n_shared);
  // Parts from a task that has got nothing but its start yet, rows and all; it can be started again.
  std::shared_ptr<Task> hand_back();
  bool works_on(const Task& task) const { return task_.get() == &task; }
  // Ends a task that generates where it stands, as where its context is full.
  void end_early() { finish(StopType::kLimit, true); }
  // Ends the task. 503 is for clients that are told to come again, or have gone.
  void fail(int status, std::string message);
  // Gives the rows of an idle slot back.
  void forget();
  // Gives up rows of an idle slot that it does not know the tokens of, after a step that was left in the middle.
  void align();
  // The tokens whose rows are here.
  const std::vector<int>& tokens() const { return cached_; }
  // An idle slot's rows have been filled from a file.
  void take_restored(std::vector<int> tokens);
  // An idle slot whose rows are being saved or restored: no task gets it, and nobody its pages.
  void hold(bool on) { held_ = on; }
  bool held() const { return held_; }

  // A step of a busy slot: prepare(), then what it could use, which changes when pages are given back elsewhere;
  // the piece of the first n tokens of that; its logits as they come; then whatever is left to do. The task may
  // have ended by then.
  bool prefills() const { return evaluated_ < task_->prompt_.size(); }
  void prepare();
  SlotDemand demand() const;
  Piece piece(int n);
  void take_logits(int row, std::span<const float> logits);
  // Nothing more of the piece is of use.
  bool has_enough() const { return !task_ || settled_ || task_->cancelled_; }
  void settle();

 private:
  using Clock = std::chrono::steady_clock;

  std::span<const int> guess();
  std::optional<int> sample(std::span<const float> logits);  // nothing: the task has failed
  void take_prompt_logits(std::span<const float> logits);
  void take_next_logits(int row, std::span<const float> logits);
  void record(size_t n_rows);
  void accept(int token, std::span<const float> logits);
  void finish(StopType type, bool truncated);
  void release();
  Timings timings() const;
  void publish();

  Context& context_;
  const Tokenizer& tokenizer_;
  ServingBoard& board_;
  int seq_;
  bool held_ = false;
  std::vector<int> cached_;  // the tokens whose rows the sequence holds

  std::shared_ptr<Task> task_;
  std::optional<Sampler> sampler_;
  std::optional<TextOutput> output_;
  std::optional<ReasoningBudget> thinking_;
  GenerationResult result_;
  size_t evaluated_ = 0;  // prompt tokens in the cache
  int n_reused_ = 0;
  std::optional<NgramDraft> drafts_;    // where speculation is on
  int n_drafted_ = 0, n_accepted_ = 0;  // of this task
  std::vector<int> next_;               // the last token and the guesses after it
  std::span<const int> piece_;          // what is being evaluated, of next_ or the prompt
  size_t piece_begin_ = 0;              // where in cached_ it begins
  bool settled_ = true;                 // a guess of it was wrong: what follows is not wanted
  uint64_t bytes_before_ = 0;           // weight_bytes_read(seq_) at the first token
  int64_t id_task_ = 0, last_used_ = 0;
  bool has_new_line_ = false;
  size_t text_begin_ = 0;                                      // of the next token, in all the text generated
  std::vector<size_t> token_begins_;                           // of each token of result_.probs
  Clock::time_point prompt_begin_, first_token_, last_token_;  // first_token_: or the prompt's end
};

}  // namespace engine
