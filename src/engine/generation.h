#pragma once
// The engine thread. Clients submit tasks and wait for their events on their own threads; the one engine
// thread owns the Context, gives waiting tasks to free slots and advances every busy slot by one step (a
// batch of prompt or one token) in turn. Today there is one slot; continuous batching joins the steps of
// several into one Step. The context can be replaced while nothing runs (reconfigure).

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "src/engine/context.h"
#include "src/engine/generation_types.h"
#include "src/engine/ngram_draft.h"
#include "src/engine/serving_board.h"
#include "src/engine/text_output.h"
#include "src/engine/tokenizer.h"

namespace engine {

// One client's request, shared by its thread and the engine thread.
class Task {
 public:
  Task(std::vector<int> prompt, GenerationParams params)
      : prompt_(std::move(prompt)), params_(std::move(params)) {}

  // The next event; nullopt when none came in time. Nothing follows kDone or kFailed.
  std::optional<GenerationEvent> wait(std::chrono::milliseconds timeout);
  // The engine gives the task up after the ubatch that is running.
  void cancel() { cancelled_ = true; }

 private:
  friend class Generator;
  friend class Slot;
  void put(GenerationEvent event);

  const std::vector<int> prompt_;
  const GenerationParams params_;
  std::atomic<bool> cancelled_{false};
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<GenerationEvent> events_;
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

  bool busy() const { return task_ != nullptr; }
  void start(std::shared_ptr<Task> task);
  // One batch of the prompt, or one token, or several that were guessed right. `stopping` ends it as a cancelled client does.
  void step(const std::atomic<bool>& stopping);

 private:
  using Clock = std::chrono::steady_clock;

  std::span<const int> guess();
  std::optional<int> sample(std::span<const float> logits);  // nothing: the task has failed
  void count_evaluation(int n_guessed);
  void verify(std::span<const int> guessed);
  void accept(int token, std::span<const float> logits);
  void finish(StopType type, bool truncated);
  void fail(int status, std::string message);
  void release();
  Timings timings() const;
  void publish();

  Context& context_;
  const Tokenizer& tokenizer_;
  ServingBoard& board_;
  int seq_;
  std::vector<int> cached_;  // the tokens whose rows the sequence holds

  std::shared_ptr<Task> task_;
  std::optional<Sampler> sampler_;
  std::optional<TextOutput> output_;
  GenerationResult result_;
  size_t evaluated_ = 0;  // prompt tokens in the cache
  int n_reused_ = 0;
  std::optional<NgramDraft> drafts_;    // where speculation is on
  int n_drafted_ = 0, n_accepted_ = 0;  // of this task
  std::vector<int> verified_;           // the last token and the guesses after it
  std::vector<float> verify_logits_;    // [verified_ x n_vocab]
  bool has_new_line_ = false;
  size_t text_begin_ = 0;             // of the next token, in all the text generated
  std::vector<size_t> token_begins_;  // of each token of result_.probs
  Clock::time_point prompt_begin_, first_token_, last_token_;
};

// How a reconfiguration ended. kReverted: the new context could not be opened, the former one serves again.
// kLost: neither could; every task fails from now on. kGivenUp, kStopped: nothing was changed.
enum class Reconfigured { kDone, kReverted, kLost, kGivenUp, kStopped };

class Generator {
 public:
  // Opens a context; called for the one after a reconfiguration, or the former one again.
  using Open = std::function<base::Result<std::unique_ptr<Context>>(const ContextOptions& options)>;

  // The tokenizer must outlive it. `options` are what `context` was opened with.
  Generator(std::unique_ptr<Context> context, const ContextOptions& options,
            const SpeculationOptions& speculation, Open open, const Tokenizer& tokenizer);
  ~Generator();  // stop(), then waits for the engine thread

  // The prompt is not empty, and its tokens are in range. While a reconfiguration runs, and for a prompt that
  // does not fit the context it led to, the task fails with status 503.
  std::shared_ptr<Task> submit(std::vector<int> prompt, GenerationParams params);
  // Fails every task, running or waiting, as soon as the running ubatch ends, and all later ones.
  void stop();
  // True once the engine thread has nothing more to do after stop().
  bool stopped_within(std::chrono::milliseconds timeout);

  // Takes no new tasks, lets the running and waiting ones finish, drops the context, and only then opens one
  // with other options: afterwards everything is as in a fresh process. Blocks; one call at a time; `give_up`
  // is asked every now and then while tasks finish. `why` is set for kReverted and kLost.
  Reconfigured reconfigure(const ContextOptions& options, const SpeculationOptions& speculation,
                           const std::function<bool()>& give_up, std::string& why);
  // A reconfiguration is running (or was lost): submit() would refuse.
  bool paused() const;

  ServingBoard::View view(bool scrape = false) { return board_.view(scrape); }
  SpeculationOptions speculation() const;
  ContextInfo info() const;  // the last context's while a new one is opened

 private:
  void run();
  void use(std::unique_ptr<Context> context, const SpeculationOptions& speculation);

  const Open open_;
  const Tokenizer& tokenizer_;
  ServingBoard board_;
  // The engine thread's; reconfigure's while paused_ and idle_.
  std::unique_ptr<Context> context_;
  ContextOptions options_;
  std::vector<Slot> slots_;

  mutable std::mutex mutex_;  // over what follows
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Task>> waiting_;
  ContextInfo info_;
  SpeculationOptions speculation_;
  std::atomic<bool> stopping_{false};
  bool idle_ = true;     // no slot is busy
  bool paused_ = false;  // no new tasks
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace engine
