// What compiled programs depend on besides themselves.

#include <fstream>
#include <thread>

#include "compiled_cache.h"
#include "sha256.h"

namespace gemma3 {
namespace {

// What of /proc/cpuinfo names the processor and what it can do, once.
std::string processor() {
  static constexpr const char *kFields[] = {
      "vendor_id", "cpu family", "model",    "model name",      "stepping",
      "flags",     "Features",   "CPU part", "CPU implementer", "CPU variant",
  };
  std::ifstream file("/proc/cpuinfo");
  std::string text;
  for (std::string line; std::getline(file, line) && !line.empty();) {
    const std::string name = line.substr(0, line.find_first_of("\t:"));
    for (const char *field : kFields) {
      if (name == field) text += line + "\n";
    }
  }
  return text;
}

}  // namespace

Identity machine_identity(const Client &client, const std::string &client_options,
                          unsigned threads) {
  Identity identity = {{"host", kCompiledHost},
                       {"plugin_build", client.plugin().build()},
                       {"pjrt_api", client.plugin().api_version()},
                       {"stablehlo", client.plugin().stablehlo_current()},
                       {"platform", client.platform() + " " + client.platform_version()},
                       {"device", client.device_kind()},
                       {"options", client_options}};
  if (client.on_cpu()) {
    identity["cpu"] = sha256_hex(processor());
    // XLA:CPU cuts work into as many pieces as there are threads when it compiles.
    identity["cores"] = std::to_string(threads > 0 ? threads : std::thread::hardware_concurrency());
  }
  return identity;
}

}  // namespace gemma3
