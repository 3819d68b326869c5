// Which fixed shapes serve a request (runtime/loading/buckets.py): arithmetic, nothing of a device.
#ifndef GEMMA3_SRC_GRID_H_
#define GEMMA3_SRC_GRID_H_

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "manifest.h"

namespace gemma3 {

// The smallest size that is at least `needed`, else the largest; `sizes` is not empty.
int64_t pick(int64_t needed, const std::set<int64_t> &sizes);

// Chunk sizes that take in `length` tokens with the least work, the largest first; only the last can
// have padding.
std::vector<int64_t> plan_prefill(int64_t length, const std::set<int64_t> &sizes);

// (rows, batch bucket) of each group that serves `rows` rows, in order.
std::vector<std::pair<int64_t, int64_t>> split_rows(int64_t rows, const std::set<int64_t> &batches);

// The batch and cache length shared by all programs that serve one group of rows.
struct GroupShape {
  int64_t batch = 0, cache = 0;
  bool operator<(const GroupShape &other) const {
    return std::tie(batch, cache) < std::tie(other.batch, other.cache);
  }
};

// Rows first to first + count of a request, run together.
struct Group {
  size_t first = 0, count = 0;
  GroupShape shape;
};

using GroupShapes = std::set<GroupShape>;

// The buckets a bundle has for one mesh and platform; `source` names it in messages.
class Grid {
 public:
  Grid() = default;
  Grid(std::string source, std::set<Bucket> buckets)
      : source_(std::move(source)), buckets_(std::move(buckets)) {}

  const std::string &source() const { return source_; }
  const std::set<Bucket> &buckets() const { return buckets_; }
  // Token sizes of a program at this batch and cache length.
  std::set<int64_t> tokens(ProgramName program, GroupShape shape) const;
  GroupShapes shapes(ProgramName program) const;
  // Shapes that can take in a prompt and go on from it; `stepping` with the logits of each token.
  GroupShapes generating(bool stepping) const;
  // How many images one call can encode.
  std::set<int64_t> image_counts() const;

  // The groups that serve `rows` rows of `needed` positions; ask require_fit first.
  std::vector<Group> groups(const GroupShapes &shapes, size_t rows, int64_t needed) const;
  // The most positions a row can have. Throws Error when there are no shapes to do `what`.
  int64_t longest(const GroupShapes &shapes, const std::string &what) const;
  // Throws Error when a row of `length` and `new_tokens` fits no cache bucket.
  void require_fit(const GroupShapes &shapes, const std::string &what, int64_t length,
                   int64_t new_tokens) const;

 private:
  std::string source_;
  std::set<Bucket> buckets_;
};

GroupShapes intersection(const GroupShapes &a, const GroupShapes &b);

// The next power of two: what people pass to --cache and --prefill.
int64_t round_up(int64_t needed);

// "3 tokens", "1 token".
std::string count_of(int64_t number, const std::string &noun);

// "32, 128".
std::string joined(const std::set<int64_t> &sizes, const char *separator = ", ");

}  // namespace gemma3

#endif  // GEMMA3_SRC_GRID_H_
