// native_fuzz CACHE_DIR FOLDER...: opens bundles one after another in one process, and generates a
// few tokens with those that open. One line for each: whether the bundle was accepted, whether it
// ran, and the tokens or the message.
#include <cstdio>
#include <cstring>
#include <vector>

#include "gemma3.h"

namespace {

int32_t keep(void *user, const gemma3_token *token) {
  static_cast<std::vector<int32_t> *>(user)->push_back(token->token);
  return GEMMA3_CONTINUE;
}

// What a run ended with: 0 and tokens, or a status and a message.
gemma3_status run(const char *cache_dir, const char *folder, std::vector<int32_t> &tokens,
                  gemma3_error &error) {
  gemma3_options options = {};
  options.size = sizeof options;
  options.bundle = folder;
  options.cache_dir = cache_dir;
  options.flags = GEMMA3_VERIFY;
  gemma3_model *model = nullptr;
  if (gemma3_open(&options, &model, &error) != GEMMA3_OK) return error.status;
  const int32_t text[] = {2, 17, 18, 30, 31};
  const gemma3_prompt prompt = {text, 5, nullptr, 0};
  gemma3_request request = {};
  request.size = sizeof request;
  request.prompts = &prompt;
  request.prompt_size = sizeof prompt;
  request.prompt_count = 1;
  request.max_new_tokens = 6;
  request.flags = GEMMA3_IGNORE_EOS;
  const gemma3_status status = gemma3_generate(model, &request, keep, &tokens, &error);
  gemma3_close(model);
  return status;
}

}  // namespace

int main(int count, char **arguments) {
  for (int i = 2; i < count; ++i) {
    gemma3_error error = {};
    gemma3_bundle *bundle = nullptr;
    const gemma3_status opened = gemma3_bundle_open(arguments[i], &bundle, &error);
    char *info = nullptr;
    if (opened == GEMMA3_OK) gemma3_bundle_info(bundle, &info, &error);
    gemma3_free(info);
    gemma3_bundle_close(bundle);
    std::vector<int32_t> tokens;
    const gemma3_status ran =
        opened == GEMMA3_OK ? run(arguments[1], arguments[i], tokens, error) : opened;
    std::printf("%d %d", opened, ran);
    if (ran == GEMMA3_OK) {
      for (int32_t token : tokens) std::printf(" %d", token);
    } else {
      std::printf(" %s", error.message);
    }
    std::printf("\n");
    std::fflush(stdout);
  }
  return 0;
}
