// Whole requests: check everything, pick the buckets, run groups of rows (runtime/requests/generate.py,
// score.py, classify.py, embed.py).
#ifndef GEMMA3_SRC_TASKS_H_
#define GEMMA3_SRC_TASKS_H_

#include <functional>
#include <memory>
#include <vector>

#include "gemma3.h"
#include "session.h"

namespace gemma3 {

// gemma3_request of the size the library knows, what the caller's lacks being zero; so are the
// elements of its arrays.
using Request = gemma3_request;

// Refuses what the model cannot serve; of a request with `task` GENERATE the groups that serve it.
std::vector<Group> plan_request(const Model &model, const Request &request);
// The programs that serving the request begins with.
std::set<Bucket> request_buckets(const std::shared_ptr<Model> &model, const Request &request);

// Tells callbacks of the tokens of steps; rows of the session are prompts first, first + 1, ...
class Teller {
 public:
  Teller(size_t first, size_t rows) : first_(first), counts_(rows) {}
  // Rows that the callback, which may be null, has enough of are finished. When it asks to cancel,
  // the rest of the step is told all the same, since it is in the cache, and then Error
  // (GEMMA3_CANCELLED) is thrown.
  void tell(Session &session, const Step &step, gemma3_token_fn callback, void *user);
  // The next token told of a row is its first.
  void begin(size_t row) { counts_[row] = 0; }
  uint64_t after_first() const;  // tokens told beyond the first of each row

 private:
  size_t first_;
  std::vector<uint32_t> counts_;
};

// `timings` gets one for each prompt.
void generate(const std::shared_ptr<Model> &model, const Request &request, gemma3_token_fn on_token,
              void *user, std::vector<gemma3_timing> &timings);

// Numbers of the caller, and how many of them there are.
struct Floats {
  float *data = nullptr;
  size_t capacity = 0;
};

// gemma3_scoring of the size the library knows, with arrays of such sizes.
void score(Model &model, const gemma3_scoring &scoring);
void classify(Model &model, const std::vector<gemma3_prompt> &prompts, Floats scores,
              const Between &between);
void embed(Model &model, const std::vector<gemma3_prompt> &prompts, Floats vectors,
           const Between &between);

// Shapes a session can have, and what to call it in a refusal.
std::pair<GroupShapes, std::string> usable_shapes(const Model &model, bool logprobs, bool images);

}  // namespace gemma3

#endif  // GEMMA3_SRC_TASKS_H_
