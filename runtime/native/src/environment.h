// The environment a plugin sees while it starts.
#ifndef GEMMA3_SRC_ENVIRONMENT_H_
#define GEMMA3_SRC_ENVIRONMENT_H_

#include <filesystem>
#include <string>

namespace gemma3 {

// The value of a variable, empty when it is not set. In a program that runs with more rights than
// its user has (setuid), no variable is: they choose code and folders.
std::string environment(const char *name);

// A variable that names a folder: empty unless it is an absolute path. A relative one would mean
// whatever the current folder is.
std::filesystem::path folder_variable(const char *name);

// The file that this code was loaded from, a library or the program itself: absolute and without
// links; empty where the system does not tell. The current folder and the search path have no part
// in it, as they have in what dladdr calls a program that was found by PATH.
std::filesystem::path own_file();

// What a plugin may see of the environment while it starts; plugins start one at a time.
//
// XLA reads XLA_FLAGS once, and ends the process for a flag it does not know. `change` can take the
// variable away, and turn XLA's remarks off unless TF_CPP_MIN_LOG_LEVEL says otherwise. It can name
// the threads that XLA:CPU computes with, which each client reads from PJRT_NPROC. It holds until
// the object is gone. The caller's variables are not touched: for the time being the process is
// given another list of pointers to them.
class PluginEnvironment {
 public:
  PluginEnvironment();
  ~PluginEnvironment();
  PluginEnvironment(const PluginEnvironment &) = delete;
  PluginEnvironment &operator=(const PluginEnvironment &) = delete;

  // To be called at most once; `threads` 0 leaves their number alone. Whether there was something
  // in XLA_FLAGS that is now hidden.
  bool change(bool hide_flags, unsigned threads);

 private:
  char **before_ = nullptr;
  bool changed_ = false;
};

}  // namespace gemma3

#endif  // GEMMA3_SRC_ENVIRONMENT_H_
