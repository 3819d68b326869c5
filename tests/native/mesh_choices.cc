// The mesh that libgemma3 takes where none is named, so that a test can compare it with the Python
// runtime's: a name for each line `PLATFORM DEVICES` of stdin, `-` being an unknown one. The meshes
// are the arguments, as NAME=SIZE; each is lowered for cpu and tpu.
#include <iostream>
#include <sstream>

#include "choose_mesh.h"

// Of the manifest's source, which has no part in this.
int64_t gemma3::Mesh::devices() const { return axes.front().size; }

int main(int count, char **arguments) {
  gemma3::Manifest manifest;
  for (int i = 1; i < count; ++i) {
    const std::string text = arguments[i];
    const size_t at = text.find('=');
    gemma3::MeshRecord record;
    record.mesh.name = text.substr(0, at);
    record.mesh.axes.push_back({"model", std::stoll(text.substr(at + 1))});
    for (const char *platform : {"cpu", "tpu"}) {
      gemma3::Program program;
      program.mesh = record.mesh.name;
      program.platform = platform;
      manifest.programs.push_back(program);
    }
    manifest.meshes.push_back(record);
  }
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string platform, devices;
    words >> platform >> devices;
    const gemma3::MeshRecord *record = gemma3::choose_mesh(
        manifest, platform == "-" ? "" : platform,
        devices == "-" ? std::nullopt : std::optional<int64_t>(std::stoll(devices)));
    std::cout << (record == nullptr ? "none" : record->mesh.name) << "\n";
  }
}
