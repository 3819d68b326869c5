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

// The text that a pipe, a file or a socket brings on standard input, where nobody names one; none
// where it is a terminal or another device, such as /dev/null, or has no text. A pipe is read until
// its writers close it; who waits in vain is told why on stderr. Throws UsageError as above.
std::vector<std::string> read_piped();

}  // namespace gemma3::host
