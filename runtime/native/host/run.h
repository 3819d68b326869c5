// What the command line asks for, done.
#pragma once

#include "options.h"

namespace gemma3::host {

// Returns the exit status; throws UsageError for what the user can fix.
int run(const Options& options);

}  // namespace gemma3::host
