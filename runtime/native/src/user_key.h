// The secret that tells the compiled programs of this user from those of others, shared with the
// Python runtime (artifacts/compiled.py; FORMAT.md, Compiled programs).
#ifndef GEMMA3_SRC_USER_KEY_H_
#define GEMMA3_SRC_USER_KEY_H_

#include <filesystem>
#include <string>

namespace gemma3 {

// Where this user's caches are: `gemma3-export` in $XDG_CACHE_HOME or ~/.cache. Empty where the
// user has no home.
std::filesystem::path user_folder();

// The key in the user's folder. Empty when it is not there, cannot be read, has another length, or
// when others could have read or replaced it.
std::string read_user_key(const std::filesystem::path &folder);

// The same, made first where there is none.
std::string make_user_key(const std::filesystem::path &folder);

// What is in the way where that gives none, and what to do about it.
std::string why_no_key(const std::filesystem::path &folder);

}  // namespace gemma3

#endif  // GEMMA3_SRC_USER_KEY_H_
