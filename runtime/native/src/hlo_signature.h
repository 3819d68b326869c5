// What a compiled program takes and gives, out of its HLO.
#ifndef GEMMA3_SRC_HLO_SIGNATURE_H_
#define GEMMA3_SRC_HLO_SIGNATURE_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "client.h"

namespace gemma3 {

// dtype as manifests call it ("" for others) and the shape on one device.
struct DevicePort {
  std::string dtype;
  Shape shape;
  bool operator==(const DevicePort &other) const {
    return dtype == other.dtype && shape == other.shape;
  }
};

struct HloSignature {
  std::vector<DevicePort> parameters, results;
};

// The signature of `executable`; nothing where the plugin does not give the program back.
std::optional<HloSignature> signature_of(const Plugin &plugin, const Executable &executable);

// Out of a serialised HloModuleProto, or HloModuleProtoWithConfig.
std::optional<HloSignature> parse_signature(std::string_view hlo, bool with_config);

}  // namespace gemma3

#endif  // GEMMA3_SRC_HLO_SIGNATURE_H_
