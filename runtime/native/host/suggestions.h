// What a misspelt flag may have been meant to be.
#pragma once

#include <string>
#include <vector>

namespace gemma3::host {

// How alike two words are, 0 to 1: twice the letters they share in order, over those of both. The
// letters of the longest run they share count first, then those of what stands before and after it
// (Ratcliff and Obershelp), as in Python's difflib.
double likeness(const std::string& a, const std::string& b);

// At most three of `words`, sorted, that are like `word`; what click suggests for it.
std::vector<std::string> close_matches(const std::string& word,
                                       const std::vector<std::string>& words);

}  // namespace gemma3::host
