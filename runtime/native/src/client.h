// The devices of a plugin, and what goes to and from them.
#ifndef GEMMA3_SRC_CLIENT_H_
#define GEMMA3_SRC_CLIENT_H_

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "manifest.h"
#include "pjrt.h"

namespace gemma3 {

// A tensor on the devices of a mesh: the buffer of each device, in the mesh's order.
using Shards = std::vector<Buffer>;

// How memory of the host is handed to a device.
enum class Handover {
  kCopy,      // copied before the call returns
  kZeroCopy,  // the buffer is that memory where the device can do so: keep it, unchanged
};

struct Upload {
  Buffer buffer;
  Event done;  // the device no longer needs the memory of the host; null once it is known
};

// How to start a client of a plugin.
struct ClientSettings {
  std::string options;            // "name=value,..."
  int64_t cpu_devices = 1;        // that a CPU plugin makes
  unsigned threads = 0;           // that a CPU plugin computes with; 0: as it thinks best
  bool keep_environment = false;  // of the process, whatever is in it
};

// A client of a plugin, with the devices it gives.
class Client {
 public:
  // Throws Error.
  Client(const PluginSource &source, const ClientSettings &settings);

  const Plugin &plugin() const { return *plugin_; }
  // As manifests call it: cpu, cuda, tpu, or whatever else the plugin says.
  const std::string &platform() const { return platform_; }
  const std::string &platform_version() const { return version_; }
  const std::string &device_kind() const { return kind_; }
  size_t device_count() const { return devices_.size(); }
  // Something in XLA_FLAGS was not let through.
  bool ignored_flags() const { return ignored_flags_; }
  bool on_cpu() const { return platform_ == "cpu"; }

  // Compiles StableHLO for the first `devices` devices. Throws Error.
  Executable compile(std::string_view stablehlo, int64_t devices) const;
  // What compile() gave, as bytes for deserialize(); empty when the plugin cannot.
  std::string serialize(const Executable &executable) const;
  Executable deserialize(std::string_view bytes) const;
  // CompileOptionsProto for a program over `devices` devices.
  std::string compile_options(int64_t devices) const;

  Upload upload(const void *data, const std::string &dtype, const Shape &shape, size_t device,
                Handover how) const;
  // Starts copying a buffer to `out`, which is row-major and of `bytes` bytes.
  Event download(const Buffer &buffer, void *out, size_t bytes, size_t rank) const;
  // Waits until a buffer is there; throws Error when the program that was to make it failed.
  void wait(const Buffer &buffer) const;
  // Held while a program of several devices runs.
  std::mutex &launches() const { return launches_; }
  // The address of a buffer, 0 where the plugin does not tell.
  uintptr_t address(const Buffer &buffer) const;

 private:
  void create(const std::string &options, int64_t cpu_devices);
  void describe();
  void settle() const;

  std::unique_ptr<Plugin> plugin_;
  Owner<PJRT_Client> client_;
  std::vector<PJRT_Device *> devices_;
  std::vector<int64_t> ids_;
  std::string platform_, version_, kind_;
  bool ignored_flags_ = false;
  mutable std::mutex launches_;
};

}  // namespace gemma3

#endif  // GEMMA3_SRC_CLIENT_H_
