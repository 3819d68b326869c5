// Prompts of a command line that stand elsewhere: in files, or on standard input.
#pragma once

#include <string>
#include <vector>

namespace gemma3::host {

// The texts of --prompt, `-` being standard input, and after them those of --prompt-file. A newline
// at the end of a file is not part of its text. Throws UsageError for one that cannot be read, is
// not UTF-8, or is larger than any prompt.
std::vector<std::string> read_prompts(const std::vector<std::string>& prompts,
                                      const std::vector<std::string>& files);

}  // namespace gemma3::host
