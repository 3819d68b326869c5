// A PJRT plugin: its library, checked calls into it, and an owner for each kind of its objects.
#ifndef GEMMA3_SRC_PJRT_H_
#define GEMMA3_SRC_PJRT_H_

#include <pjrt_c_api.h>

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "error.h"

namespace gemma3 {

// Where a plugin is: a library to be loaded, or one that is in the process already.
struct PluginSource {
  std::string path;               // of the library, or of the file that `api` is in
  const PJRT_Api *api = nullptr;  // null: to be asked of the library

  // Of an interface that the caller has.
  static PluginSource of(const PJRT_Api *api);
  // Whether the plugin is in the process already, and has read its environment: as far as we know.
  bool is_started() const;
};

// A loaded plugin. It is never unloaded: plugins keep threads and static objects of their own.
class Plugin {
 public:
  // Loads the library, unless its interface is there, and checks its version. Throws Error.
  explicit Plugin(const PluginSource &source);

  const std::string &path() const { return path_; }
  const PJRT_Api &api() const { return *api_; }
  std::string api_version() const;
  // StableHLO versions as "1.13.3", empty where the plugin does not say.
  std::string stablehlo_current() const { return attribute("stablehlo_current_version"); }
  std::string stablehlo_minimum() const { return attribute("stablehlo_minimum_version"); }
  // What tells builds of plugins apart: the linker's build id, or a digest of samples of the file.
  std::string build() const;
  // The first extension of a type, or null.
  const PJRT_Extension_Base *extension(PJRT_Extension_Type type) const;

  // An entry of the API; throws Error when this plugin is older than it.
  template <typename Function>
  Function *entry(Function *PJRT_Api::*member, const char *name) const {
    if (!has(member)) missing(name);
    return api_->*member;
  }
  template <typename Function>
  bool has(Function *PJRT_Api::*member) const {
    const auto offset =
        reinterpret_cast<const char *>(&(api_->*member)) - reinterpret_cast<const char *>(api_);
    return static_cast<size_t>(offset) + sizeof(void *) <= api_->struct_size &&
           api_->*member != nullptr;
  }
  // Throws Error with the plugin's message when `error` is not null.
  void check(PJRT_Error *error, const char *what) const;

 private:
  void load();
  void initialize();
  std::string attribute(const std::string &name) const;
  [[noreturn]] void missing(const char *name) const;

  std::string path_;
  const PJRT_Api *api_ = nullptr;
  std::map<std::string, std::string> attributes_;
};

// The arguments of a PJRT call, zero but for their size.
#define GEMMA3_ARGS(function, name) \
  PJRT_##function##_Args name = {}; \
  name.struct_size = PJRT_##function##_Args_STRUCT_SIZE

// Calls an entry of the plugin's API; throws Error when it is missing or fails.
#define GEMMA3_CALL(plugin, function, args) \
  (plugin).check((plugin).entry(&PJRT_Api::PJRT_##function, #function)(&(args)), #function)

// The same for destroying: failures have nobody to go to.
void destroy(const Plugin &plugin, PJRT_Client *object) noexcept;
void destroy(const Plugin &plugin, PJRT_Buffer *object) noexcept;
void destroy(const Plugin &plugin, PJRT_Event *object) noexcept;
void destroy(const Plugin &plugin, PJRT_Executable *object) noexcept;
void destroy(const Plugin &plugin, PJRT_LoadedExecutable *object) noexcept;

// The one owner of a PJRT object.
template <typename Object>
class Owner {
 public:
  Owner() = default;
  Owner(const Plugin &plugin, Object *object) : plugin_(&plugin), object_(object) {}
  Owner(Owner &&other) noexcept
      : plugin_(other.plugin_), object_(std::exchange(other.object_, nullptr)) {}
  Owner &operator=(Owner &&other) noexcept {
    if (this != &other) {
      reset();
      plugin_ = other.plugin_;
      object_ = std::exchange(other.object_, nullptr);
    }
    return *this;
  }
  ~Owner() { reset(); }

  Object *get() const { return object_; }
  explicit operator bool() const { return object_ != nullptr; }
  void reset() {
    if (object_ != nullptr) destroy(*plugin_, std::exchange(object_, nullptr));
  }

 private:
  const Plugin *plugin_ = nullptr;
  Object *object_ = nullptr;
};

using Buffer = Owner<PJRT_Buffer>;
using Event = Owner<PJRT_Event>;
using Executable = Owner<PJRT_LoadedExecutable>;

// Waits for an event; throws Error when what it stands for failed.
void await(const Plugin &plugin, const Event &event, const char *what);

// The path of the plugin for a platform (see gemma3_find_plugin); throws Error.
std::string find_plugin(const std::string &platform);
// The first of `platforms`, accelerators first, whose plugin and hardware are there.
std::string find_plugin(const std::vector<std::string> &platforms);

}  // namespace gemma3

#endif  // GEMMA3_SRC_PJRT_H_
