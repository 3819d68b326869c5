// The chunks that libgemma3 takes a prompt in by, so that a test can compare them with the Python
// runtime's: a line of sizes for each line `LENGTH SIZE...` of stdin.
#include <iostream>
#include <sstream>

#include "grid.h"

// Of the manifest, which has no part in this.
std::string_view gemma3::name_of(gemma3::ProgramName) { return ""; }

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream numbers(line);
    int64_t length = 0;
    numbers >> length;
    std::set<int64_t> sizes;
    for (int64_t size = 0; numbers >> size;) sizes.insert(size);
    for (const int64_t chunk : gemma3::plan_prefill(length, sizes)) std::cout << chunk << " ";
    std::cout << "\n";
  }
}
