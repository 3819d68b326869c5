// Task prompts of an embedding model: what stands before a text; artifacts/prompts.py.
#pragma once

#include <optional>
#include <string>

#include "bundle.h"

namespace gemma3::host {

// What stands before a text of `task`, or of the bundle's default task where none is named; empty
// where the bundle names none. Throws UsageError for a task that is not there, and for a file that
// is not as FORMAT.md says.
std::string task_text(const std::optional<std::string>& task, const Bundle& bundle);

}  // namespace gemma3::host
