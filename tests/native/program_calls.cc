// What libgemma3 finds that programs call outside themselves, so that a test can compare it with what
// the Python runtime finds: a line for each program, in hexadecimal digits, on a line of stdin.
#include <iostream>

#include "bytecode.h"

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    std::string code;
    for (size_t at = 0; at + 1 < line.size(); at += 2) {
      code += static_cast<char>(std::stoi(line.substr(at, 2), nullptr, 16));
    }
    try {
      for (const std::string &call : gemma3::calls_of(code)) std::cout << call << "\t";
      std::cout << "\n";
    } catch (const gemma3::BadBytecode &error) {
      std::cout << "error: " << error.what() << "\n";
    }
  }
}
