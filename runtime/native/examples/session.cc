// A conversation's state in C++: a session is filled, saved, restored and goes on.
//
//     c++ -std=c++17 session.cc -I build/native/include -L build/native/lib -lgemma3
//       -Wl,-rpath,$PWD/build/native/lib -o session
//     ./session bundle 2,17,18 16
#include <gemma3.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

// A call that throws what went wrong: call(gemma3_open, &options, &model).
template <typename Function, typename... Arguments>
void call(Function function, Arguments... arguments) {
  gemma3_error error;
  if (function(arguments..., &error) != GEMMA3_OK) throw std::runtime_error(error.message);
}

template <typename T>
using Owned = std::unique_ptr<T, void (*)(T*)>;

Owned<gemma3_model> open(const char* bundle) {
  gemma3_options options{};
  options.size = sizeof options;
  options.bundle = bundle;
  gemma3_model* model = nullptr;
  call(gemma3_open, &options, &model);
  return {model, gemma3_close};
}

std::vector<int32_t> parse(const std::string& text) {
  std::vector<int32_t> tokens;
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) tokens.push_back(std::stoi(part));
  return tokens;
}

int32_t print_token(void*, const gemma3_token* token) {
  std::printf("%d ", token->token);
  return GEMMA3_CONTINUE;
}

int main(int count, char** arguments) try {
  if (count != 4) throw std::runtime_error("usage: session BUNDLE 2,17,18 COUNT");
  const auto model = open(arguments[1]);
  gemma3_session_options options{};
  options.size = sizeof options;
  options.rows = 1;
  options.flags = GEMMA3_IGNORE_EOS;
  gemma3_session* raw = nullptr;
  call(gemma3_session_open, model.get(), &options, &raw);
  Owned<gemma3_session> session(raw, gemma3_session_close);

  // Takes in the prompt and draws the first token.
  const std::vector<int32_t> tokens = parse(arguments[2]);
  const gemma3_prompt prompt = {tokens.data(), tokens.size(), nullptr, 0};
  const auto wanted = static_cast<uint32_t>(std::atoi(arguments[3]));
  const gemma3_prefill prefill = {sizeof prefill, &prompt, sizeof prompt, 1, wanted};
  call(gemma3_session_prefill, session.get(), &prefill, print_token, nullptr);

  // The session as bytes: to be kept in a file, and restored in another process or on another mesh.
  uint8_t* bytes = nullptr;
  size_t size = 0;
  call(gemma3_session_save, session.get(), &bytes, &size);
  call(gemma3_session_restore, model.get(), bytes, size, &raw);
  gemma3_free(bytes);
  session.reset(raw);

  call(gemma3_session_generate, session.get(), uint32_t{0}, print_token, nullptr, nullptr);
  std::printf("\n");
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
