#include "grid.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <numeric>
#include <set>
#include <string>

#include "error.h"

namespace gemma3 {

namespace {

using Names = std::set<std::string>;

std::string joined(const Names &names, const char *between) {
  std::string text;
  for (const std::string &name : names) text += (text.empty() ? "" : between) + name;
  return text;
}

// The programs of each thing to do, by what messages call it.
const Names &needed_for(const std::string &what) {
  static const std::map<std::string, Names> kNeeded = {
      {"generate", {"prefill", "generate"}},
      {"generate with log-probabilities", {"prefill", "decode"}},
      {"generate from images", {"encode_image", "prefill", "prefill_images", "generate"}},
      {"generate with log-probabilities from images",
       {"encode_image", "prefill", "prefill_images", "decode"}},
      {"score", {"score"}},
      {"score images", {"encode_image", "score", "score_images"}},
      {"classify", {"classify"}},
      {"classify images", {"encode_image", "classify", "classify_images"}},
      {"embed", {"embed"}},
  };
  return kNeeded.at(what);
}

// How to get a bundle that can do `what`, seeing which programs this one has.
std::string remedy(const std::string &what, const Names &there) {
  const Names &needed = needed_for(what);
  for (const char *head : {"classify", "embed"}) {
    if (there.count(head) != needed.count(head)) return "export another checkpoint";
  }
  Names all = there;
  all.insert(needed.begin(), needed.end());
  return "re-export with --programs " + joined(all, ",");
}

}  // namespace

int64_t pick(int64_t needed, const std::set<int64_t> &sizes) {
  const auto found = sizes.lower_bound(needed);
  return found == sizes.end() ? *sizes.rbegin() : *found;
}

std::vector<int64_t> plan_prefill(int64_t length, const std::set<int64_t> &sizes) {
  constexpr int64_t kCallCost = 32;  // in tokens; why is said in artifacts/chunks.py
  int64_t unit = 0;                  // chunks end at its multiples, so lengths between need no plan
  for (const int64_t size : sizes) unit = std::gcd(unit, size);
  const auto units = static_cast<size_t>((std::max<int64_t>(length, 0) + unit - 1) / unit);
  // Of a plan for so many units: its work, and its first chunk.
  std::vector<int64_t> least(units + 1), first(units + 1);
  for (size_t needed = 1; needed <= units; ++needed) {
    least[needed] = INT64_MAX;
    for (auto size = sizes.rbegin(); size != sizes.rend(); ++size) {
      const auto step = static_cast<size_t>(*size / unit);
      const int64_t work = *size + kCallCost + least[needed - std::min(step, needed)];
      if (work >= least[needed]) continue;  // of equals the larger chunk, which came before
      least[needed] = work;
      first[needed] = *size;
    }
  }
  std::vector<int64_t> chunks;
  for (size_t needed = units; needed > 0;) {
    chunks.push_back(first[needed]);
    needed -= std::min(static_cast<size_t>(first[needed] / unit), needed);
  }
  std::sort(chunks.rbegin(), chunks.rend());
  return chunks;
}

std::vector<std::pair<int64_t, int64_t>> split_rows(int64_t rows,
                                                    const std::set<int64_t> &batches) {
  std::vector<std::pair<int64_t, int64_t>> groups;
  while (rows > 0) {
    const int64_t batch = pick(rows, batches);
    groups.emplace_back(std::min(rows, batch), batch);
    rows -= batch;
  }
  return groups;
}

std::set<int64_t> Grid::tokens(ProgramName program, GroupShape shape) const {
  std::set<int64_t> sizes;
  for (const Bucket &bucket : buckets_) {
    if (bucket.program == program && bucket.batch == shape.batch && bucket.cache == shape.cache) {
      sizes.insert(bucket.tokens);
    }
  }
  return sizes;
}

GroupShapes Grid::shapes(ProgramName program) const {
  GroupShapes found;
  for (const Bucket &bucket : buckets_) {
    if (bucket.program == program) found.insert({bucket.batch, bucket.cache});
  }
  return found;
}

GroupShapes Grid::generating(bool stepping) const {
  GroupShapes following = shapes(ProgramName::kDecode);
  if (!stepping) following.merge(shapes(ProgramName::kGenerate));
  return intersection(shapes(ProgramName::kPrefill), following);
}

std::set<int64_t> Grid::image_counts() const {
  std::set<int64_t> counts;
  for (const Bucket &bucket : buckets_) {
    if (bucket.program == ProgramName::kEncodeImage) counts.insert(bucket.batch);
  }
  return counts;
}

std::vector<Group> Grid::groups(const GroupShapes &shapes, size_t rows, int64_t needed) const {
  std::set<int64_t> batches;
  for (const GroupShape &shape : shapes) {
    if (shape.cache >= needed) batches.insert(shape.batch);
  }
  std::vector<Group> groups;
  size_t first = 0;
  for (const auto &[count, batch] : split_rows(static_cast<int64_t>(rows), batches)) {
    GroupShape chosen;
    for (const GroupShape &shape : shapes) {  // in order of cache within a batch
      if (shape.batch != batch || shape.cache < needed) continue;
      chosen = shape;
      break;
    }
    groups.push_back({first, static_cast<size_t>(count), chosen});
    first += static_cast<size_t>(count);
  }
  return groups;
}

int64_t Grid::longest(const GroupShapes &shapes, const std::string &what) const {
  if (shapes.empty()) {
    Names there;
    for (const Bucket &bucket : buckets_) there.emplace(name_of(bucket.program));
    refuse("cannot " + what + ": " + source_ + " has only these programs: " +
           (there.empty() ? "none" : joined(there, ", ")) + "; " + remedy(what, there));
  }
  int64_t most = 0;
  for (const GroupShape &shape : shapes) most = std::max(most, shape.cache);
  return most;
}

void Grid::require_fit(const GroupShapes &shapes, const std::string &what, int64_t length,
                       int64_t new_tokens) const {
  const int64_t most = longest(shapes, what);
  const int64_t needed = length + new_tokens;
  if (needed <= most) return;
  std::set<int64_t> caches;
  for (const GroupShape &shape : shapes) caches.insert(shape.cache);
  std::string request = "prompt of " + count_of(length, "token");
  std::string remedy = "re-export with --cache " + std::to_string(round_up(needed));
  if (new_tokens > 0) request += " and " + count_of(new_tokens, "new token");
  if (length < most) {
    remedy = "ask for at most " + count_of(most - length, "new token") + ", or " + remedy;
  }
  refuse(GEMMA3_CONTEXT_FULL, request + " does not fit: largest cache bucket is " +
                                  std::to_string(most) + " (cache buckets of " + source_ + ": " +
                                  joined(caches) + "); " + remedy);
}

GroupShapes intersection(const GroupShapes &a, const GroupShapes &b) {
  GroupShapes both;
  std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::inserter(both, both.end()));
  return both;
}

int64_t round_up(int64_t needed) {
  int64_t size = 1;
  while (size < needed) size *= 2;
  return size;
}

std::string count_of(int64_t number, const std::string &noun) {
  return std::to_string(number) + " " + noun + (number == 1 ? "" : "s");
}

std::string joined(const std::set<int64_t> &sizes, const char *separator) {
  std::string text;
  for (int64_t size : sizes) text += (text.empty() ? "" : separator) + std::to_string(size);
  return text;
}

}  // namespace gemma3
