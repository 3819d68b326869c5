#include "pjrt.h"

#include <dlfcn.h>

#include <set>

#include "environment.h"
#include "files.h"
#include "manifest.h"
#include "sha256.h"

namespace gemma3 {
namespace {

// XLA's messages go on for pages; the first line says it.
std::string first_line(const char *text, size_t size) {
  std::string line(text, size);
  line = line.substr(0, line.find('\n'));
  for (char &c : line) {
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  }
  return line;
}

std::string text_of(const PJRT_NamedValue &value) {
  std::string text;
  switch (value.type) {
    case PJRT_NamedValue_kString: return std::string(value.string_value, value.value_size);
    case PJRT_NamedValue_kInt64: return std::to_string(value.int64_value);
    case PJRT_NamedValue_kInt64List:
      for (size_t i = 0; i < value.value_size; ++i) {
        text += (i == 0 ? "" : ".") + std::to_string(value.int64_array_value[i]);
      }
      return text;
    case PJRT_NamedValue_kFloat: return std::to_string(value.float_value);
    case PJRT_NamedValue_kBool: return value.bool_value ? "true" : "false";
  }
  return text;
}

// Interfaces that a plugin was started by. Guarded by PluginEnvironment, which whoever starts a
// plugin has.
std::set<const PJRT_Api *> &started() {
  static auto *interfaces = new std::set<const PJRT_Api *>;
  return *interfaces;
}

}  // namespace

PluginSource PluginSource::of(const PJRT_Api *api) {
  // Of the interface itself nothing but its size and version may be read before they are checked.
  Dl_info found{};
  const bool named = ::dladdr(reinterpret_cast<const void *>(api), &found) != 0 &&
                     found.dli_fname != nullptr && found.dli_fname[0] == '/';
  return {named ? found.dli_fname : own_file().string(), api};
}

bool PluginSource::is_started() const {
  if (api != nullptr) return started().count(api) > 0;
  void *library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
  if (library != nullptr) ::dlclose(library);  // gives back only what this asked for
  return library != nullptr;
}

Plugin::Plugin(const PluginSource &source) : path_(source.path), api_(source.api) {
  if (api_ == nullptr) load();
  if (api_->pjrt_api_version.major_version != PJRT_API_MAJOR) {
    refuse(GEMMA3_UNKNOWN_VERSION, path_ + ": expected PJRT API " + std::to_string(PJRT_API_MAJOR) +
                                       ".x, got " + api_version() +
                                       "; install a plugin of that version");
  }
  started().insert(api_);
  initialize();
}

void Plugin::load() {
  const std::string path = path_;
  if (path.find('/') == std::string::npos) path_ = "./" + path;  // not through the search path
  void *library = ::dlopen(path_.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char *reason = ::dlerror();
    refuse(GEMMA3_NOT_FOUND,
           path + ": expected a PJRT plugin, got a file that cannot be loaded (" +
               (reason == nullptr ? "unknown reason"
                                  : first_line(reason, std::string(reason).size())) +
               "); name another with --plugin");
  }
  using GetApi = const PJRT_Api *(*)();
  const auto get = reinterpret_cast<GetApi>(::dlsym(library, "GetPjrtApi"));
  api_ = get == nullptr ? nullptr : get();
  if (api_ == nullptr) {
    refuse(GEMMA3_NOT_FOUND,
           path +
               ": expected a PJRT plugin, got a library without GetPjrtApi; name another with "
               "--plugin");
  }
}

void Plugin::initialize() {
  if (has(&PJRT_Api::PJRT_Plugin_Initialize)) {
    PJRT_Plugin_Initialize_Args args = {};
    args.struct_size = PJRT_Plugin_Initialize_Args_STRUCT_SIZE;
    GEMMA3_CALL(*this, Plugin_Initialize, args);
  }
  if (has(&PJRT_Api::PJRT_Plugin_Attributes)) {
    GEMMA3_ARGS(Plugin_Attributes, args);
    GEMMA3_CALL(*this, Plugin_Attributes, args);
    for (size_t i = 0; i < args.num_attributes; ++i) {
      const PJRT_NamedValue &value = args.attributes[i];
      attributes_[std::string(value.name, value.name_size)] = text_of(value);
    }
  }
}

std::string Plugin::api_version() const {
  return std::to_string(api_->pjrt_api_version.major_version) + "." +
         std::to_string(api_->pjrt_api_version.minor_version);
}

std::string Plugin::attribute(const std::string &name) const {
  const auto found = attributes_.find(name);
  return found == attributes_.end() ? "" : found->second;
}

// Plugins have no build id of the linker. 64 blocks over the whole file, and its size, change with
// any build; reading all of 200 MB at every start would cost more than what it keys saves.
std::string Plugin::build() const {
  constexpr int64_t kBlocks = 64, kBlock = 4096;
  const File file(path_);
  Sha256 digest;
  const std::string size = std::to_string(file.size());
  digest.update(size.data(), size.size());
  for (int64_t i = 0; i < kBlocks; ++i) {
    const int64_t at = (file.size() - kBlock) / (kBlocks - 1) * i;
    if (at < 0) break;
    const std::string block = file.read(at, kBlock);
    digest.update(block.data(), block.size());
  }
  return digest.hex();
}

const PJRT_Extension_Base *Plugin::extension(PJRT_Extension_Type type) const {
  const PJRT_Extension_Base *found = api_->extension_start;
  while (found != nullptr && found->type != type) found = found->next;
  return found;
}

void Plugin::check(PJRT_Error *error, const char *what) const {
  if (error == nullptr) return;
  GEMMA3_ARGS(Error_Message, message);
  message.error = error;
  api_->PJRT_Error_Message(&message);
  const std::string line = first_line(message.message, message.message_size);
  GEMMA3_ARGS(Error_GetCode, code);
  code.error = error;
  const bool known = api_->PJRT_Error_GetCode(&code) == nullptr;
  const bool memory = known && code.code == PJRT_Error_Code_RESOURCE_EXHAUSTED;
  GEMMA3_ARGS(Error_Destroy, args);
  args.error = error;
  api_->PJRT_Error_Destroy(&args);
  throw Error(memory ? GEMMA3_OUT_OF_MEMORY : GEMMA3_FAILED,
              path_ + ": " + what + " failed: " + line);
}

void Plugin::missing(const char *name) const {
  refuse(GEMMA3_UNKNOWN_VERSION, path_ + ": expected a plugin with PJRT_" + name +
                                     ", got one of PJRT API " + api_version() +
                                     " without it; install a newer plugin");
}

namespace {

// Runs a destroying entry and drops its error.
template <typename Function, typename Args>
void quietly(const Plugin &plugin, Function function, Args &args) noexcept {
  PJRT_Error *error = function(&args);
  if (error == nullptr) return;
  GEMMA3_ARGS(Error_Destroy, gone);
  gone.error = error;
  plugin.api().PJRT_Error_Destroy(&gone);
}

}  // namespace

void destroy(const Plugin &plugin, PJRT_Client *object) noexcept {
  GEMMA3_ARGS(Client_Destroy, args);
  args.client = object;
  quietly(plugin, plugin.api().PJRT_Client_Destroy, args);
}

void destroy(const Plugin &plugin, PJRT_Buffer *object) noexcept {
  GEMMA3_ARGS(Buffer_Destroy, args);
  args.buffer = object;
  quietly(plugin, plugin.api().PJRT_Buffer_Destroy, args);
}

void destroy(const Plugin &plugin, PJRT_Event *object) noexcept {
  GEMMA3_ARGS(Event_Destroy, args);
  args.event = object;
  quietly(plugin, plugin.api().PJRT_Event_Destroy, args);
}

void destroy(const Plugin &plugin, PJRT_Executable *object) noexcept {
  GEMMA3_ARGS(Executable_Destroy, args);
  args.executable = object;
  quietly(plugin, plugin.api().PJRT_Executable_Destroy, args);
}

void destroy(const Plugin &plugin, PJRT_LoadedExecutable *object) noexcept {
  GEMMA3_ARGS(LoadedExecutable_Destroy, args);
  args.executable = object;
  quietly(plugin, plugin.api().PJRT_LoadedExecutable_Destroy, args);
}

void await(const Plugin &plugin, const Event &event, const char *what) {
  if (!event) return;
  GEMMA3_ARGS(Event_Await, args);
  args.event = event.get();
  plugin.check(plugin.entry(&PJRT_Api::PJRT_Event_Await, "Event_Await")(&args), what);
}

}  // namespace gemma3
