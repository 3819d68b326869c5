#include "suggestions.h"

#include <algorithm>
#include <string_view>
#include <utility>

namespace gemma3::host {
namespace {

constexpr double kLeastLikeness = 0.6;
constexpr size_t kMost = 3;

// The letters that two words share in order.
size_t shared(std::string_view a, std::string_view b) {
  size_t best = 0, in_a = 0, in_b = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    for (size_t j = 0; j < b.size(); ++j) {
      size_t length = 0;
      while (i + length < a.size() && j + length < b.size() && a[i + length] == b[j + length]) {
        ++length;
      }
      if (length > best) best = length, in_a = i, in_b = j;  // of equals the first
    }
  }
  if (best == 0) return 0;
  return best + shared(a.substr(0, in_a), b.substr(0, in_b)) +
         shared(a.substr(in_a + best), b.substr(in_b + best));
}

}  // namespace

double likeness(const std::string& a, const std::string& b) {
  if (a.empty() && b.empty()) return 1;
  return 2.0 * static_cast<double>(shared(a, b)) / static_cast<double>(a.size() + b.size());
}

std::vector<std::string> close_matches(const std::string& word,
                                       const std::vector<std::string>& words) {
  std::vector<std::pair<double, std::string>> found;
  for (const std::string& other : words) {
    const double alike = likeness(other, word);
    if (alike >= kLeastLikeness) found.emplace_back(alike, other);
  }
  std::sort(found.rbegin(), found.rend());
  found.resize(std::min(found.size(), kMost));
  std::vector<std::string> names;
  for (auto& [alike, name] : found) names.push_back(std::move(name));
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace gemma3::host
